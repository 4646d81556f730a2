"""Other projects' weights: exact keys, lossless round trips, outputs equal to theirs."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import multimask
from multimask import MaskedModel, Masker, Ratio, Uniform
from multimask.checkpoints.layouts import LAYOUTS, hf_vitmae, layout_of, mae
from multimask.finetuning import Classifier
from multimask.methods.mae import mae as mae_recipe
from multimask.modalities.image import ImagePatches
from multimask.modalities.volume import VolumePatches
from multimask.modality import collate
from multimask.nn.encoders import Encoder
from multimask.nn.positions import sincos
from multimask.tokens import Batch, Masking, Part

WIDTH, HIDDEN, DECODER, PATCH, GRID, CLASSES = 24, 96, 16, 4, 4, 5
HEADS: dict[str, Any] = {"heads": 2}
BOTH: dict[str, Any] = {"heads": 2, "decoder_heads": 2}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def linear(name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": numbers(outputs, inputs), f"{name}.bias": numbers(outputs)}


def norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + numbers(width), f"{name}.bias": numbers(width, seed=1)}


def block(stem: str, width: int) -> dict[str, Tensor]:
    return {
        **norm(f"{stem}.norm1", width),
        **linear(f"{stem}.attn.qkv", 3 * width, width),
        **linear(f"{stem}.attn.proj", width, width),
        **norm(f"{stem}.norm2", width),
        **linear(f"{stem}.mlp.fc1", 4 * width, width),
        **linear(f"{stem}.mlp.fc2", width, 4 * width),
    }


def official(what: str, channels: int = 3, grid: int = GRID) -> dict[str, Tensor]:
    """The entries of MAE's files, written out from its code: models_mae.py and models_vit.py."""
    state = {
        "cls_token": numbers(1, 1, WIDTH),
        "pos_embed": torch.cat((torch.zeros(1, WIDTH), sincos((grid, grid), WIDTH)))[None],
        "patch_embed.proj.weight": numbers(WIDTH, channels, PATCH, PATCH),
        "patch_embed.proj.bias": numbers(WIDTH),
        **block("blocks.0", WIDTH),
        **block("blocks.1", WIDTH),
    }
    if what == "finetuned":
        return state | norm("fc_norm", WIDTH) | linear("head", CLASSES, WIDTH)
    state |= norm("norm", WIDTH)
    if what == "full":
        table = torch.cat((torch.zeros(1, DECODER), sincos((grid, grid), DECODER)))[None]
        state |= {"mask_token": numbers(1, 1, DECODER), "decoder_pos_embed": table}
        state |= linear("decoder_embed", DECODER, WIDTH) | block("decoder_blocks.0", DECODER)
        state |= norm("decoder_norm", DECODER)
        state |= linear("decoder_pred", PATCH * PATCH * channels, DECODER)
    return state


def saved(state: dict[str, Tensor], file: Path) -> Path:
    torch.save({"model": state, "epoch": 3}, file)
    return file


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert set(a) == set(b)
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


def pictures(count: int = 2, channels: int = 3, height: int = 16, width: int = 16) -> Batch:
    data = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(9))
    return Batch(count, ("a", "b")[:count], {}, {"image": Part(data, torch.arange(count))})


# --- facebookresearch/mae -------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "count"), [("encoder", 30), ("full", 30 + 20), ("finetuned", 32)])
def test_a_file_of_mae_is_known_and_comes_back_bit_for_bit(
    what: str, count: int, tmp_path: Path
) -> None:
    state = official(what)
    assert len(state) == count
    assert layout_of(state, tmp_path) == "mae"
    file = saved(state, tmp_path / "mae.pth")
    facts = BOTH if what == "full" else HEADS
    if what == "finetuned":
        model, head = Classifier.read(file, **facts), None
        again, head = mae.write(model.model), mae.write_head(model.head.state_dict())
        return equal(again | head, state)
    model = multimask.load(file, tell=None, **facts)
    model.export(tmp_path / "again.pth", "mae")
    return equal(torch.load(tmp_path / "again.pth")["model"], state)


def test_the_visualize_files_regress_plain_values(tmp_path: Path) -> None:
    state = official("full")
    units = {}
    for name in ("mae_pretrain_vit_base_full.pth", "mae_visualize_vit_base.pth"):
        model = multimask.load(saved(state, tmp_path / name), tell=None, **BOTH)
        units[name.split("_")[1]] = cast(Any, model.adapters["image"]).target.unit
    assert units == {"pretrain": "patch", "visualize": "none"}


def test_a_kernel_reads_rows_columns_and_channels_in_their_order(tmp_path: Path) -> None:
    state = official("encoder")
    model = multimask.load(saved(state, tmp_path / "a.pth"), tell=None, **HEADS)
    batch = pictures()
    tokens = model.tokenize(batch)
    part = tokens.modalities["image"]
    content = model.adapter("image").embed(part.values[0], part.coords[0])
    pixels = cast(ImagePatches, model.tokenizers["image"]).standardised(batch.parts["image"].data)
    wanted = nn.functional.conv2d(
        pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH
    )
    torch.testing.assert_close(content, wanted[0].flatten(1).T, atol=1e-5, rtol=0)


def test_a_model_of_ours_is_written_out_with_its_computed_tables(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": WIDTH, "depth": 2, "heads": 2, "decoder_width": DECODER}
    recipe = mae_recipe(
        {"image": ImagePatches(16, 4)}, **sizes, decoder_depth=1, decoder_heads=2, normalise=False
    )
    model = recipe.model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the modality embedding, too
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.export(tmp_path / "ours.safetensors", "mae")
    again = multimask.load(tmp_path / "ours.safetensors", tell=None, normalise=False, **BOTH)
    masker = Masker(Uniform(), Ratio(0.5))
    for one, other in zip(answers(model, masker), answers(again, masker), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def answers(model: MaskedModel, masker: Masker) -> tuple[Tensor, Tensor]:
    """Latents and predictions, of values that do not depend on the tokenizer's statistics."""
    batch = pictures()
    values = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(3))
    tokens = model.tokenize(batch)
    part = tokens.modalities["image"]
    tokens = replace(tokens, modalities={"image": replace(part, values=values)})
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    masking = model.picked(tokens, masker(tokens.exists, generators, model.context(tokens)))
    with torch.no_grad():
        latents = model.encode_visible(tokens, masking)
        found = model.predict(tokens, model.decode(tokens, latents, masking), masking)
    return latents.tokens, found["image"][0]


@pytest.mark.parametrize("form", ["several", "cloud", "no class token"])
def test_models_that_mae_cannot_hold_are_refused(form: str, tmp_path: Path) -> None:
    picture = ImagePatches(16, 4)
    if form == "several":
        model, said = MaskedModel({"a": picture, "b": picture}, width=24, depth=1), "one modality"
    elif form == "cloud":
        from multimask.modalities.points import PointGroups

        model, said = MaskedModel({"a": PointGroups(4, 2)}, width=24, depth=1), "holds lattices"
    else:
        encoder = Encoder(24, 1, 3, num_globals=0)
        model, said = MaskedModel({"a": picture}, encoder), "one global token"
    with pytest.raises(ValueError, match=said):
        model.export(tmp_path / "a.pth", "mae")


# --- timm -----------------------------------------------------------------------------------------


def timm_state(registers: int, embeds_class: bool) -> dict[str, Tensor]:
    """A ViT of timm: a class token, registers, layer scale, and a head behind `norm`."""
    state = official("encoder") | linear("head", CLASSES, WIDTH)
    rows = GRID * GRID + (1 + registers if embeds_class else 0)
    state["pos_embed"] = numbers(1, rows, WIDTH)
    if registers:
        state["reg_token"] = numbers(1, registers, WIDTH)
    for index in range(2):
        for scale in ("ls1", "ls2"):
            state[f"blocks.{index}.{scale}.gamma"] = 1 + numbers(WIDTH)
    return state


@pytest.mark.parametrize(("registers", "embeds_class"), [(0, True), (4, False), (2, True)])
def test_timm_vits_give_what_timm_computes(
    registers: int, embeds_class: bool, tmp_path: Path
) -> None:
    state = timm_state(registers, embeds_class)
    assert layout_of(state, tmp_path) == "timm"
    model = multimask.load(saved(state, tmp_path / "vit.pth"), tell=None, **HEADS)
    batch = pictures()
    pixels = cast(ImagePatches, model.tokenizers["image"]).standardised(batch.parts["image"].data)
    with torch.no_grad():
        latents = model.encode(batch)
    theirs = timm_forward(state, pixels, embeds_class)
    ours = torch.cat((latents.globals, latents.tokens), dim=1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def timm_forward(state: dict[str, Tensor], pixels: Tensor, embeds_class: bool) -> Tensor:
    """timm's `forward_features`, written out (`VisionTransformer._pos_embed`, `Block`)."""
    f = nn.functional

    def dense(name: str, x: Tensor) -> Tensor:
        return f.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def normed(name: str, x: Tensor) -> Tensor:
        return f.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    kernel = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    x = f.conv2d(pixels, *kernel, stride=PATCH).flatten(2).transpose(1, 2)
    prefix = [
        state[key].expand(len(x), -1, -1) for key in ("cls_token", "reg_token") if key in state
    ]
    if embeds_class:
        x = torch.cat((*prefix, x), dim=1) + state["pos_embed"]
    else:
        x = torch.cat((*prefix, x + state["pos_embed"]), dim=1)
    for i in range(2):
        stem = f"blocks.{i}"
        qkv = dense(f"{stem}.attn.qkv", normed(f"{stem}.norm1", x))
        q, k, v = qkv.unflatten(2, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(2, 3)) / (WIDTH // 2) ** 0.5).softmax(3) @ v
        mixed = dense(f"{stem}.attn.proj", mixed.transpose(1, 2).flatten(2))
        x = x + state[f"{stem}.ls1.gamma"] * mixed
        hidden = f.gelu(dense(f"{stem}.mlp.fc1", normed(f"{stem}.norm2", x)))
        x = x + state[f"{stem}.ls2.gamma"] * dense(f"{stem}.mlp.fc2", hidden)
    return normed("norm", x)


# --- transformers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vitmae() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        image_size=16,
        patch_size=PATCH,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=HIDDEN,
        decoder_hidden_size=DECODER,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=4 * DECODER,
        norm_pix_loss=True,
        mask_ratio=0.75,
    )
    torch.manual_seed(0)
    model = transformers.ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # tables too, which begin at zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_all_three_layouts_of_vitmae_are_read_and_written(vitmae: Any, tmp_path: Path) -> None:
    vitmae.save_pretrained(tmp_path / "disk")
    memory = {k: v.clone() for k, v in vitmae.state_dict().items()}
    model = multimask.load(tmp_path / "disk", tell=None)
    written = {form: hf_vitmae.write(model, form) for form in ("hub", "disk", "memory")}
    # the class token's place is folded into the token
    token, table = "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"
    folded = memory[token] + memory[table][:, :1]
    assert torch.equal(written["memory"][token], folded)
    memory[token], memory[table][:, 0] = folded, 0
    memory["decoder.decoder_pos_embed"][:, 0] = 0
    equal(written["memory"], memory)
    from safetensors.torch import load_file

    assert set(written["disk"]) == set(load_file(tmp_path / "disk" / "model.safetensors"))
    for state in written.values():
        assert layout_of(state, tmp_path) == "hf-vitmae"
        foreign = LAYOUTS["hf-vitmae"].read(state, mae.Facts(eps=1e-12, **BOTH))
        equal(cast(Any, foreign.model.state_dict()), cast(Any, model.state_dict()))
    hub = {key for key in written["hub"] if "decoder_layers.0.attention.attention.query" in key}
    assert hub == {
        f"decoder.decoder_layers.0.attention.attention.query.{k}" for k in ("weight", "bias")
    }


def test_outputs_are_those_of_transformers(vitmae: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        vitmae.decoder.decoder_pos_embed[:, 0] = 0  # ours gives the class token no place there
    vitmae.save_pretrained(tmp_path)
    model = multimask.load(tmp_path, tell=None)
    batch, noise = pictures(), torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    pixels = cast(ImagePatches, model.tokenizers["image"]).standardised(batch.parts["image"].data)
    with torch.no_grad():
        theirs = vitmae(pixels, noise=noise)
        order = noise.argsort(dim=1)
        tokens = model.tokenize(batch)
        exists = torch.ones(2, 16, dtype=torch.bool)
        masking = model.picked(tokens, Masking(order[:, :4], order[:, 4:], exists))
        latents = model.encode_visible(tokens, masking)
        found, _, _ = model.predict(tokens, model.decode(tokens, latents, masking), masking)[
            "image"
        ]
        whole = vitmae.vit(pixels, noise=torch.arange(16.0).expand(2, 16))
    wanted = theirs.logits.gather(1, masking.decoded_ids[..., None].expand(-1, -1, 48))
    torch.testing.assert_close(found, wanted.flatten(0, 1), atol=1e-5, rtol=0)
    assert whole is not None


def test_a_folder_we_write_is_read_by_transformers(vitmae: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vitmae.save_pretrained(tmp_path / "theirs")
    model = multimask.load(tmp_path / "theirs", tell=None)
    model.export(tmp_path / "ours", "hf-vitmae")
    again = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "ours")
    equal(again.state_dict(), hf_vitmae.write(model, "memory"))
    assert again.config.num_attention_heads == 2
    assert again.config.norm_pix_loss


# --- MONAI ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classification", [False, True])
def test_outputs_are_those_of_monais_vit(classification: bool, tmp_path: Path) -> None:
    from monai.networks.nets.vit import ViT

    torch.manual_seed(0)
    theirs = ViT(
        in_channels=2,
        img_size=(8, 12, 16),
        patch_size=(4, 4, 8),
        hidden_size=24,
        mlp_dim=40,
        num_layers=2,
        num_heads=2,
        classification=classification,
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    assert layout_of(state, tmp_path) == "monai-vit"
    torch.save(state, tmp_path / "vit.pt")
    model = multimask.load(tmp_path / "vit.pt", tell=None, heads=2, grid=(2, 3, 2))
    volume = torch.randn(1, 2, 8, 12, 16)  # x, y, z
    with torch.no_grad():
        _, hidden = theirs(volume)
        wanted = theirs.norm(hidden[-1])
        turned = volume[0].permute(0, 3, 2, 1)
        latents = model.encode(collate([{"scan": turned}], model.tokenizers))
    ours = latents.tokens[0].view(2, 3, 2, 24).permute(2, 1, 0, 3).flatten(0, 2)
    torch.testing.assert_close(ours, wanted[0, -12:], atol=1e-5, rtol=0)
    if classification:
        torch.testing.assert_close(latents.globals[0], wanted[0, :1], atol=1e-5, rtol=0)
    model.export(tmp_path / "again.pth", "monai-vit")
    again = torch.load(tmp_path / "again.pth")["model"]
    kept = {k: v for k, v in state.items() if "norm_cross_attn" not in k}
    kept = {k: v for k, v in kept.items() if not k.startswith("classification_head")}
    equal({k: v for k, v in again.items() if "norm_cross_attn" not in k}, kept)
    assert set(again) == {k for k in state if not k.startswith("classification_head")}


def test_monais_autoencoder_is_found_and_comes_back(tmp_path: Path) -> None:
    from monai.networks.nets.masked_autoencoder_vit import MaskedAutoEncoderViT

    torch.manual_seed(0)
    theirs = MaskedAutoEncoderViT(
        1, (16, 16, 16), (8, 8, 8), 24, 40, 1, 2, decoder_hidden_size=12, decoder_mlp_dim=20,
        decoder_num_layers=1, decoder_num_heads=2,
    )  # fmt: skip
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    torch.save(state, tmp_path / "mae.pth")
    model = multimask.load(tmp_path / "mae.pth", tell=None, **BOTH)
    assert isinstance(model.tokenizers["scan"], VolumePatches)
    model.export(tmp_path / "again.safetensors", "monai-mae")
    again = multimask.load(tmp_path / "again.safetensors", tell=None, **BOTH)
    equal(cast(Any, again.state_dict()), cast(Any, model.state_dict()))
