"""The same sums as MONAI's MaskedAutoEncoderViT, and as BM-MAE restated with MONAI's blocks."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from multimask.checkpoints.layouts import bm_mae as bm_layout
from multimask.checkpoints.layouts import monai_mae as monai_layout
from multimask.methods.bm_mae import bm_mae
from multimask.methods.monai_mae import monai_mae
from multimask.methods.recipe import Recipe
from multimask.modalities.volume import VolumePatches
from multimask.model import MaskedModel
from multimask.tokens import Batch, Masking, Part, Step

SIZE, PATCH = (8, 12, 16), (4, 4, 8)  # z, y, x
GRID = (2, 3, 2)
SIZES: dict[str, Any] = {"width": 48, "depth": 2, "heads": 4, "mlp": 32}
SIZES |= {"decoder_width": 24, "decoder_depth": 2, "decoder_heads": 4, "decoder_mlp": 16}


def randomise(module: nn.Module) -> None:
    """All that trains; MONAI's unused norms get no gradient and keep ones and zeros."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and monai_layout.UNUSED not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def their_model(channels: int = 2, positions: str = "sincos", bias: bool = False) -> nn.Module:
    """MONAI's class on arrays (x, y, z)."""
    from monai.networks.nets.masked_autoencoder_vit import MaskedAutoEncoderViT

    torch.manual_seed(0)
    model = MaskedAutoEncoderViT(
        channels, SIZE[::-1], PATCH[::-1], 48, 32, 2, 4, 0.75, 24, 16, 2, 4,
        pos_embed_type=positions, decoder_pos_embed_type=positions, qkv_bias=bias,
    )  # fmt: skip
    randomise(model)
    return model.eval()


def our_recipe(channels: int = 2, positions: str = "sincos", bias: bool = False) -> Recipe:
    tokenizer = VolumePatches(SIZE, PATCH, channels)
    return monai_mae({"scan": tokenizer}, **SIZES, positions=positions, qkv_bias=bias)


def turned(ids: Tensor, grid: tuple[int, int, int] = GRID) -> Tensor:
    """Our slots (z, y, x) of their tokens (x, y, z)."""
    z, y, x = grid
    return torch.arange(z * y * x).reshape(z, y, x).permute(2, 1, 0).flatten()[ids]


@pytest.mark.parametrize(("positions", "bias"), [("sincos", False), ("learnable", True)])
def test_encoder_and_decoder_put_out_what_monai_does(positions: str, bias: bool) -> None:
    theirs, recipe = their_model(2, positions, bias), our_recipe(2, positions, bias)
    recipe.model.load_state_dict(monai_layout.to_ours(theirs.state_dict(), grid=GRID))
    data = torch.randn(3, 2, *SIZE)
    chosen = torch.stack([torch.randperm(12)[:3] for _ in range(3)])
    seen: dict[str, Tensor] = {}
    cast(Any, theirs)._masking = keep(chosen)
    cast(Any, theirs).blocks.register_forward_hook(lambda _m, _i, out: seen.update(out=out))
    with torch.no_grad():
        wanted, _ = theirs(data.permute(0, 1, 4, 3, 2))
        latents, answers, ids = ours_on(recipe.model, data, turned(chosen))
    torch.testing.assert_close(latents.globals, seen["out"][:, :1], rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.tokens, seen["out"][:, 1:], rtol=0, atol=1e-5)
    rows = monai_layout.rows_to_ours(wanted.flatten(0, 1).T, PATCH[::-1], "xyz").T
    theirs_by_slot = torch.empty(3, 12, rows.shape[1])
    theirs_by_slot[:, turned(torch.arange(12))] = rows.view(3, 12, -1)
    expected = theirs_by_slot.gather(1, ids[..., None].expand(-1, -1, rows.shape[1]))
    torch.testing.assert_close(answers, expected, rtol=0, atol=1e-5)
    assert wanted.std() > 0.1  # not two constants


def keep(chosen: Tensor) -> Any:
    def masking(x: Tensor, masking_ratio: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.ones(x.shape[:2], dtype=torch.int).scatter(1, chosen, 0)
        return x[torch.arange(len(x))[:, None], chosen], chosen, hidden

    return masking


def ours_on(model: MaskedModel, data: Tensor, ids: Tensor) -> tuple[Any, Tensor, Tensor]:
    """Latents, answers (b, d, c) and the slots they are for, with these tokens visible."""
    model.eval()
    size, n = len(data), 12
    hidden = torch.ones(size, n, dtype=torch.bool).scatter(1, ids, False)
    decoded = torch.stack([row.nonzero().squeeze(1) for row in hidden])
    masking = Masking(ids, decoded, torch.ones(size, n, dtype=torch.bool))
    batch = Batch(
        size, tuple("abcdef"[:size]), {}, {"scan": Part({"data": data}, torch.arange(size))}
    )
    tokens = model.tokenize(batch)
    masking = model.picked(tokens, masking)
    latents = model.encode_visible(tokens, masking)
    answers, _, _ = model.predict(tokens, model.decode(tokens, latents, masking), masking)["scan"]
    return latents, answers.view(size, decoded.shape[1], -1), decoded


@pytest.mark.parametrize(("positions", "bias"), [("sincos", False), ("learnable", True)])
@pytest.mark.parametrize("axes", ["xyz", "zyx"])
def test_monai_weights_go_there_and_back_bit_by_bit(
    positions: str, bias: bool, axes: monai_layout.Axes
) -> None:
    theirs = their_model(2, positions, bias).state_dict()
    # with axes "zyx" their first axis is our first: lattice and patch are then those of theirs
    turn = slice(None) if axes == "xyz" else slice(None, None, -1)
    grid, patch = cast(Any, GRID[turn]), cast(Any, PATCH[turn])
    assert monai_layout.matches(theirs)
    ours = monai_layout.to_ours(theirs, grid=grid, axes=axes)
    back = monai_layout.to_theirs(ours, patch, grid=grid, axes=axes)
    assert list(sorted(back)) == sorted(theirs)
    for key, value in theirs.items():
        assert torch.equal(back[key], value), key


def test_our_fresh_positions_are_monais() -> None:
    theirs, ours = their_model().state_dict(), our_recipe().model.state_dict()
    made = monai_layout.to_ours(theirs, grid=GRID)
    for key in ("adapters.scan.position.table", "adapters.scan.decoder_position.table"):
        torch.testing.assert_close(ours[key], made[key], rtol=0, atol=1e-6)


def test_other_keys_are_refused() -> None:
    state = their_model().state_dict()
    del state["blocks.1.norm1.bias"]
    assert not monai_layout.matches(state)
    with pytest.raises(ValueError, match="not the keys of a MaskedAutoEncoderViT"):
        monai_layout.to_ours(state)
    assert not bm_layout.matches(state)


# --- BM-MAE ---------------------------------------------------------------------------------------


class RestatedBMMAE(nn.Module):
    """What BM-MAE computes, written from its description: names as in its state dict."""

    def __init__(self, contrasts: tuple[str, ...], side: int = 16, patch: int = 8) -> None:
        from monai.networks.blocks.patchembedding import PatchEmbeddingBlock
        from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
        from monai.networks.blocks.transformerblock import TransformerBlock

        super().__init__()
        self.contrasts = contrasts
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 48))
        self.tokenizers = nn.ModuleDict()
        for name in contrasts:
            holder = nn.Module()
            holder.patch_embedding = PatchEmbeddingBlock(
                1, (side,) * 3, (patch,) * 3, 48, 4, "conv", "sincos"
            )
            self.tokenizers[name] = holder
        self.blocks = nn.ModuleList(TransformerBlock(48, 96, 4, qkv_bias=True) for _ in range(2))
        self.norm = nn.LayerNorm(48)
        decoder = nn.Module()
        decoder.mask_tokens = nn.Parameter(torch.zeros(1, 1, 24))
        decoder.position_embeddings = build_sincos_position_embedding([side // patch] * 3, 24)
        decoder.decoder_embed, decoder.decoder_norm = nn.Linear(48, 24), nn.LayerNorm(24)
        decoder.decoder_pred = nn.Linear(24, patch**3)
        decoder.decoder_blocks = nn.ModuleList(
            TransformerBlock(24, 96, 4, qkv_bias=True) for _ in range(2)
        )
        decoder.modality_embeddings = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(1, 1, 24)) for name in contrasts}
        )
        self.decoder = decoder

    def forward(self, volumes: dict[str, Tensor], kept: Tensor) -> Tensor:
        """Answers for all tokens of all contrasts, in their order; `kept (b, k)` are visible."""
        tokens = torch.cat(
            [cast(Any, self.tokenizers[n]).patch_embedding(volumes[n]) for n in self.contrasts], 1
        )
        rows = torch.arange(len(kept))[:, None]
        x = torch.cat((self.cls_token.expand(len(kept), -1, -1), tokens[rows, kept]), 1)
        for block in self.blocks:
            x = block(x)
        decoder = cast(Any, self.decoder)
        x = decoder.decoder_embed(self.norm(x))
        whole = decoder.mask_tokens.repeat(len(kept), tokens.shape[1], 1)
        whole[rows, kept] = x[:, 1:]
        named = [
            decoder.modality_embeddings[n] + decoder.position_embeddings for n in self.contrasts
        ]
        x = torch.cat((x[:, :1], whole + torch.cat(named, 1)), 1)
        for block in decoder.decoder_blocks:
            x = block(x)
        return decoder.decoder_pred(decoder.decoder_norm(x))[:, 1:]


BM_SIZES: dict[str, Any] = {"width": 48, "depth": 2, "heads": 4, "mlp": 96}
BM_SIZES |= {"decoder_width": 24, "decoder_depth": 2, "decoder_heads": 4, "decoder_mlp": 96}


@pytest.mark.parametrize("contrasts", [("t1",), bm_layout.CONTRASTS])
def test_bm_mae_answers_as_restated(contrasts: tuple[str, ...]) -> None:
    torch.manual_seed(1)
    theirs = RestatedBMMAE(contrasts).eval()
    randomise(theirs)
    recipe = bm_mae({name: VolumePatches(16, 8) for name in contrasts}, **BM_SIZES)
    model = recipe.model.eval()
    model.load_state_dict(bm_layout.to_ours(theirs.state_dict()))
    volumes = {name: torch.randn(2, 1, 16, 16, 16) for name in contrasts}  # z, y, x
    n = 8 * len(contrasts)
    kept = torch.stack([torch.randperm(n)[: n // 4] for _ in range(2)])
    with torch.no_grad():
        wanted = theirs({k: v.permute(0, 1, 4, 3, 2) for k, v in volumes.items()}, kept)
        parts = {name: Part({"data": volumes[name]}, torch.arange(2)) for name in contrasts}
        tokens = model.tokenize(Batch(2, ("a", "b"), {}, parts))
        slot_of = torch.cat(
            [model.slots[name].start + turned(torch.arange(8), (2, 2, 2)) for name in contrasts]
        )
        ids = slot_of[kept]
        hidden = torch.ones(2, n, dtype=torch.bool).scatter(1, ids, False)
        decoded = torch.stack([row.nonzero().squeeze(1) for row in hidden])
        masking = model.picked(tokens, Masking(ids, decoded, torch.ones_like(hidden)))
        features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
        answers = model.predict(tokens, features, masking)
    rows = monai_layout.rows_to_ours(wanted.flatten(0, 1).T, (8, 8, 8), "xyz").T.view(2, n, -1)
    expected = torch.empty_like(rows)
    expected[:, slot_of] = rows
    expected = expected.gather(1, decoded[..., None].expand(-1, -1, 512)).flatten(0, 1)
    for name in contrasts:
        found, _, at = answers[name]
        torch.testing.assert_close(found, expected[at], rtol=0, atol=1e-5)


def official_keys() -> dict[str, tuple[int, ...]]:
    """Entries of `bmmae.pth` and their shapes, written out from the published classes with the
    published sizes (MONAI 1.3, whose blocks have no unused norms)."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 768),
        "norm.weight": (768,),
        "norm.bias": (768,),
        "decoder.mask_tokens": (1, 1, 384),
        "decoder.position_embeddings": (1, 512, 384),
        "decoder.decoder_embed.weight": (384, 768),
        "decoder.decoder_embed.bias": (384,),
        "decoder.decoder_norm.weight": (384,),
        "decoder.decoder_norm.bias": (384,),
        "decoder.decoder_pred.weight": (4096, 384),
        "decoder.decoder_pred.bias": (4096,),
    }
    for name in ("t1", "t1ce", "t2", "flair"):
        shapes[f"tokenizers.{name}.patch_embedding.position_embeddings"] = (1, 512, 768)
        kernel = (768, 1, 16, 16, 16)
        shapes[f"tokenizers.{name}.patch_embedding.patch_embeddings.weight"] = kernel
        shapes[f"tokenizers.{name}.patch_embedding.patch_embeddings.bias"] = (768,)
        shapes[f"decoder.modality_embeddings.{name}"] = (1, 1, 384)
    for stem, count, width in (("blocks", 12, 768), ("decoder.decoder_blocks", 3, 384)):
        for index in range(count):
            block = f"{stem}.{index}"
            for norm in ("norm1", "norm2"):
                shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
            shapes |= {
                f"{block}.attn.qkv.weight": (3 * width, width),
                f"{block}.attn.qkv.bias": (3 * width,),
                f"{block}.attn.out_proj.weight": (width, width),
                f"{block}.attn.out_proj.bias": (width,),
                f"{block}.mlp.linear1.weight": (1536, width),
                f"{block}.mlp.linear1.bias": (1536,),
                f"{block}.mlp.linear2.weight": (width, 1536),
                f"{block}.mlp.linear2.bias": (width,),
            }
    return shapes


def test_the_default_recipe_has_exactly_the_official_entries() -> None:
    modalities = {name: VolumePatches(128, 16) for name in bm_layout.CONTRASTS}
    with torch.device("meta"):
        state = bm_mae(modalities).model.state_dict()
        for name in bm_layout.CONTRASTS[1:]:  # meta tensors hold no numbers to compare
            for key in ("pred.weight", "pred.bias", "decoder_position.table"):
                state[f"adapters.{name}.{key}"] = state["adapters.t1." + key]
    state = {key: torch.zeros(value.shape) for key, value in state.items()}
    theirs = bm_layout.to_theirs(state)
    assert {key: tuple(value.shape) for key, value in theirs.items()} == official_keys()
    assert bm_layout.matches(official_keys())
    trained = sum(value.numel() for key, value in theirs.items() if "position_emb" not in key)
    assert round(trained / 1e6, 1) == 76.5  # as published


def test_bm_mae_weights_go_there_and_back_bit_by_bit() -> None:
    theirs = RestatedBMMAE(bm_layout.CONTRASTS)
    randomise(theirs)
    state = theirs.state_dict()
    back = bm_layout.to_theirs(bm_layout.to_ours(state), (8, 8, 8), unused=True)
    assert sorted(back) == sorted(state)
    for key, value in state.items():
        assert torch.equal(back[key], value), key


def test_heads_that_went_apart_have_no_way_back() -> None:
    ours = bm_layout.to_ours(RestatedBMMAE(bm_layout.CONTRASTS).state_dict())
    ours["adapters.t2.pred.bias"] += 1
    with pytest.raises(ValueError, match="those of flair and t2 differ"):
        bm_layout.to_theirs(ours, (8, 8, 8))


def test_one_contrast_keeps_a_quarter_and_learns() -> None:
    recipe = bm_mae({"t1": VolumePatches(128, 16)}, **BM_SIZES)
    masker = cast(Any, recipe.objective).masker
    assert masker.budget(512) == (128, 384)
    assert recipe.model.num_tokens == {"t1": 512}


def test_training_leaves_fixed_tables_alone() -> None:
    recipe = our_recipe(1)
    assert not any("table" in name for name, _ in recipe.model.named_parameters())
    data = {"scan": Part({"data": torch.randn(2, 1, *SIZE)}, torch.arange(2))}
    term = recipe.objective(recipe.model, Batch(2, ("a", "b"), {}, data), Step())["scan"]
    term.value().backward()
    unused = [n for n, p in recipe.model.named_parameters() if p.grad is None]
    assert not unused
