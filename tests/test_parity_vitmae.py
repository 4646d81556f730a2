"""The same sums as transformers' ViTMAE: losses, answers and gradients, weight for weight."""

from collections.abc import Iterator, Mapping
from typing import cast

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.masking import Ratio
from multimask.methods.mae import mae
from multimask.modalities.image import ImagePatches
from multimask.model import MaskedModel
from multimask.nn.positions import sincos
from multimask.tokens import Batch, Masking, Part, Step

transformers = pytest.importorskip("transformers")

SIZE, PATCH, SAMPLES, GRID = 32, 8, 3, (4, 4)
WIDTH, DECODER_WIDTH, DEPTH, HEADS = 64, 32, 2, 4


# --- the weights of one in the names of the other -------------------------------------------------


def their_names(ours: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Our weights, or their gradients, in the names and shapes of `ViTMAEForPreTraining`
    (transformers 5, in memory). Position tables are not among them: ours has none."""
    content = f"adapters.{name}.proj"
    theirs = {
        "vit.embeddings.cls_token": ours["encoder.globals"][None],
        "decoder.mask_token": ours["decoder.mask_token"][None, None],
        "vit.embeddings.patch_embeddings.projection.bias": ours[f"{content}.bias"],
        "vit.embeddings.patch_embeddings.projection.weight": rearrange(
            ours[f"{content}.weight"], "w (y x c) -> w c y x", y=PATCH, x=PATCH
        ),
    }
    modules = {
        "vit.layernorm": "encoder.norm",
        "decoder.decoder_embed": "decoder.embed",
        "decoder.decoder_norm": "decoder.norm",
        "decoder.decoder_pred": f"adapters.{name}.pred",
    }
    for index in range(DEPTH):
        modules |= block_names(f"vit.layers.{index}", f"encoder.blocks.{index}")
        modules |= block_names(f"decoder.decoder_layers.{index}", f"decoder.blocks.{index}")
    for their, our in modules.items():
        for kind in ("weight", "bias"):
            theirs[f"{their}.{kind}"] = ours[f"{our}.{kind}"]
    for key in [key for key in theirs if ".qkv." in key]:
        for part, third in zip("qkv", theirs.pop(key).chunk(3), strict=True):
            theirs[key.replace(".qkv.", f".{part}_proj.")] = third
    return theirs


def their_tables() -> dict[str, Tensor]:
    """The fixed tables, which a fresh model of theirs leaves at zero; the class row is zero."""
    return {
        "vit.embeddings.position_embeddings": F.pad(sincos(GRID, WIDTH), (0, 0, 1, 0))[None],
        "decoder.decoder_pos_embed": F.pad(sincos(GRID, DECODER_WIDTH), (0, 0, 1, 0))[None],
    }


def block_names(their: str, our: str) -> dict[str, str]:
    return {
        f"{their}.layernorm_before": f"{our}.norm1",
        f"{their}.layernorm_after": f"{our}.norm2",
        f"{their}.attention.qkv": f"{our}.attn.qkv",
        f"{their}.attention.o_proj": f"{our}.attn.proj",
        f"{their}.mlp.fc1": f"{our}.mlp.fc1",
        f"{their}.mlp.fc2": f"{our}.mlp.fc2",
    }


def from_noise(noise: Tensor, ratio: float) -> Masking:
    """The masking that MAE makes of this noise: small stays visible."""
    visible, _ = Ratio(ratio)(noise.shape[1])
    shuffled = noise.argsort(dim=1)
    exists = torch.ones_like(noise, dtype=torch.bool)
    return Masking(shuffled[:, :visible], shuffled[:, visible:], exists)


# --- both, run on the same pictures and the same noise --------------------------------------------


class Pair:
    """Our MAE and theirs, with the same weights, after one backward pass on the same batch."""

    def __init__(self, normalise: bool) -> None:
        torch.manual_seed(0)
        patches = ImagePatches(SIZE, PATCH, mean=0.0, std=1.0)
        recipe = mae(
            {"photo": patches},
            width=WIDTH,
            depth=DEPTH,
            heads=HEADS,
            decoder_width=DECODER_WIDTH,
            decoder_depth=DEPTH,
            decoder_heads=HEADS,
            normalise=normalise,
        )
        self.model = recipe.model
        self.theirs = self.build_theirs(normalise)
        randomise(self.model)  # so that no bias or norm is left at the value it starts from
        weights = cast(dict[str, Tensor], self.model.state_dict())
        self.theirs.load_state_dict(their_names(weights, "photo") | their_tables())

        images, noise = torch.randn(SAMPLES, 3, SIZE, SIZE), torch.rand(SAMPLES, 16)
        ids = tuple("abc")
        part = Part(images, torch.arange(SAMPLES))
        self.batch = Batch(SAMPLES, ids, {}, {"photo": part}, from_noise(noise, 0.75))
        self.loss = recipe.objective(self.model, self.batch, Step())["photo"].value()
        self.answer = self.theirs(images, noise=noise)
        self.loss.backward()
        self.answer.loss.backward()

    @staticmethod
    def build_theirs(normalise: bool) -> nn.Module:
        config = transformers.ViTMAEConfig(
            image_size=SIZE,
            patch_size=PATCH,
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            decoder_hidden_size=DECODER_WIDTH,
            decoder_num_hidden_layers=DEPTH,
            decoder_num_attention_heads=HEADS,
            decoder_intermediate_size=4 * DECODER_WIDTH,
            layer_norm_eps=1e-6,
            mask_ratio=0.75,
            norm_pix_loss=normalise,
        )
        return transformers.ViTMAEForPreTraining(config)

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(their name, our gradient in their shape, theirs) of every weight they train."""
        ours = {name: cast(Tensor, p.grad) for name, p in self.model.named_parameters()}
        renamed = their_names(ours, "photo")
        for name, parameter in self.theirs.named_parameters():
            if parameter.requires_grad:
                yield name, renamed[name], cast(Tensor, parameter.grad)


def randomise(model: MaskedModel) -> None:
    """Move every weight, so that no bias or norm is left at the value it starts from."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("decoder_name"):  # the modality embedding: theirs has none
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


@pytest.fixture(scope="module", params=[True, False], ids=["normalised", "plain"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


def test_the_loss_is_theirs(pair: Pair) -> None:
    torch.testing.assert_close(pair.loss, pair.answer.loss, rtol=0, atol=1e-6)


def test_the_answers_are_theirs(pair: Pair) -> None:
    tokens = pair.model.tokenize(pair.batch)
    masking = pair.model.picked(tokens, cast(Masking, pair.batch.masking))
    latents = pair.model.encode_visible(tokens, masking)
    features = pair.model.decode(tokens, latents, masking)
    answers, _, _ = pair.model.predict(tokens, features, masking)["photo"]
    wanted = pair.answer.logits.gather(1, masking.decoded_ids[..., None].expand(-1, -1, 192))
    torch.testing.assert_close(answers, wanted.flatten(0, 1), rtol=0, atol=1e-6)


def test_what_is_hidden_is_theirs(pair: Pair) -> None:
    masking = cast(Masking, pair.batch.masking)
    assert torch.equal(masking.target, pair.answer.mask.bool())


def test_every_gradient_is_theirs(pair: Pair) -> None:
    compared = list(pair.gradients())
    assert len(compared) == 76
    for name, ours, theirs in compared:
        close = torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
        assert close, f"{name}: differs by {(ours - theirs).abs().max():.2e}"
