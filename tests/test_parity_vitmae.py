"""The same sums as transformers' ViTMAE: losses, answers and gradients, weight for weight."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from multimask.masking import Ratio
from multimask.methods.mae import mae
from multimask.modalities.image import ImagePatches
from multimask.model import MaskedModel
from multimask.nn.positions import sincos
from multimask.tokens import Batch, Masking, Part, Step

transformers = pytest.importorskip("transformers")

SIZE, PATCH, SAMPLES = 32, 8, 3
GRID = (SIZE // PATCH, SIZE // PATCH)


# --- the weights of one in the names of the other -------------------------------------------------


def their_weights(model: MaskedModel, name: str) -> dict[str, Tensor]:
    """Our weights in the names and shapes of `ViTMAEForPreTraining` (transformers 5, in memory)."""
    ours = cast(dict[str, Tensor], model.state_dict())
    encoder_width, decoder_width = cast(Any, model.encoder).width, cast(Any, model.decoder).width
    patches, content = cast(ImagePatches, model.tokenizers[name]), f"adapters.{name}.proj"
    kernel = ours[f"{content}.weight"].unflatten(1, (PATCH, PATCH, patches.channels))
    theirs = {
        "vit.embeddings.cls_token": ours["encoder.globals"][None],
        "vit.embeddings.position_embeddings": table_with_class_row(encoder_width),
        "vit.embeddings.patch_embeddings.projection.weight": kernel.permute(0, 3, 1, 2),
        "vit.embeddings.patch_embeddings.projection.bias": ours[f"{content}.bias"],
        "decoder.mask_token": ours["decoder.mask_token"][None, None],
        "decoder.decoder_pos_embed": table_with_class_row(decoder_width),
    }
    modules = {
        "vit.layernorm": "encoder.norm",
        "decoder.decoder_embed": "decoder.embed",
        "decoder.decoder_norm": "decoder.norm",
        "decoder.decoder_pred": f"adapters.{name}.pred",
    }
    for index in range(len(cast(Any, model.encoder).blocks)):
        modules |= block_names(f"vit.layers.{index}", f"encoder.blocks.{index}")
    for index in range(len(cast(Any, model.decoder).blocks)):
        modules |= block_names(f"decoder.decoder_layers.{index}", f"decoder.blocks.{index}")
    for their, our in modules.items():
        for kind in ("weight", "bias"):
            theirs[f"{their}.{kind}"] = ours[f"{our}.{kind}"]
    for key in [key for key in theirs if ".qkv." in key]:
        for part, third in zip("qkv", theirs.pop(key).chunk(3), strict=True):
            theirs[key.replace(".qkv.", f".{part}_proj.")] = third
    return theirs


def block_names(their: str, our: str) -> dict[str, str]:
    return {
        f"{their}.layernorm_before": f"{our}.norm1",
        f"{their}.layernorm_after": f"{our}.norm2",
        f"{their}.attention.qkv": f"{our}.attn.qkv",
        f"{their}.attention.o_proj": f"{our}.attn.proj",
        f"{their}.mlp.fc1": f"{our}.mlp.fc1",
        f"{their}.mlp.fc2": f"{our}.mlp.fc2",
    }


def table_with_class_row(width: int) -> Tensor:
    return torch.cat((torch.zeros(1, width), sincos(GRID, width)))[None]


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
        sizes = {"width": 64, "depth": 2, "heads": 4}
        decoder = {"decoder_width": 32, "decoder_depth": 2, "decoder_heads": 4}
        recipe = mae({"photo": patches}, **sizes, **decoder, normalise=normalise)
        self.model = recipe.model
        self.theirs = self.build_theirs(normalise)
        randomise(self.model)  # so that no bias or norm is left at the value it starts from
        self.theirs.load_state_dict(their_weights(self.model, "photo"))

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
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=256,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=128,
            layer_norm_eps=1e-6,
            mask_ratio=0.75,
            norm_pix_loss=normalise,
        )
        return transformers.ViTMAEForPreTraining(config)

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(their name, our gradient in their shape, theirs) of every weight they train."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(cast(Tensor, parameter.grad))
        ours = their_weights(self.model, "photo")
        for name, parameter in self.theirs.named_parameters():
            if parameter.requires_grad:
                yield name, ours[name], cast(Tensor, parameter.grad)


def randomise(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        # a modality embedding is ours alone: theirs has none
        cast(Any, model).adapters["photo"].decoder_name.zero_()


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
    assert len(compared) == 74
    for name, ours, theirs in compared:
        close = torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
        assert close, f"{name}: differs by {(ours - theirs).abs().max():.2e}"
