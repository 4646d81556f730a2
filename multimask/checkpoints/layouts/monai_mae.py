"""Weights of MONAI's `MaskedAutoEncoderViT` in three dimensions (a bare state dict).

Held against MONAI's own class, entry by entry and in what both put out; MONAI publishes no weights.
MONAI leaves the order of the numbers in `decoder_pred` to the user; here it is the one of its
"perceptron" embedding and of BM-MAE: (patch voxels, channel), channels innermost.

Their arrays have the axes (x, y, z) when read by MONAI or nibabel, ours (z, y, x); `axes="xyz"`
turns kernels, heads and position tables accordingly. `axes="zyx"` is for weights that were trained
on arrays with the axes (z, y, x).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from multimask import plugins
from multimask.checkpoints.layouts.foreign import Foreign, parts_of, told_difference
from multimask.methods.monai_mae import monai_mae
from multimask.model import MaskedModel
from multimask.nn.position_tables import turned_table
from multimask.tokens import Grid

State = Mapping[str, Tensor]
Axes = Literal["xyz", "zyx"]

KERNEL = "patch_embedding.patch_embeddings.weight"  # of the "conv" embedding
LINEAR = "patch_embedding.patch_embeddings.1.weight"  # of the "perceptron" embedding
INNER = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "attn.qkv",
    "attn.out_proj": "attn.proj",
    "mlp.linear1": "mlp.fc1",
    "mlp.linear2": "mlp.fc2",
}
UNUSED = "norm_cross_attn"  # in every block since MONAI 1.4; nothing reads it


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of a `MaskedAutoEncoderViT`."""
    if not keys or not ({KERNEL, LINEAR} & set(keys)):
        return False
    return wanted(keys) == {key for key in keys if UNUSED not in key}


def wanted(keys: Collection[str]) -> set[str]:
    """All keys of a model with as many blocks, and biases where these keys have them."""
    embedding = (KERNEL if KERNEL in keys else LINEAR).removesuffix(".weight")
    names = {"cls_token", "mask_tokens", "decoder_pos_embedding"}
    names |= {"patch_embedding.position_embeddings", f"{embedding}.weight", f"{embedding}.bias"}
    names |= {f"{m}.{k}" for m in ("decoder_embed", "decoder_pred") for k in ("weight", "bias")}
    for stem in ("blocks", "decoder_blocks"):
        count = depth(keys, stem)
        names |= {f"{stem}.{count}.weight", f"{stem}.{count}.bias"}  # the norm behind them
        for index in range(count):
            names |= {f"{stem}.{index}.{m}.{k}" for m in INNER for k in ("weight", "bias")}
            if f"{stem}.0.attn.qkv.bias" not in keys:
                names.discard(f"{stem}.{index}.attn.qkv.bias")
    return names


def depth(keys: Collection[str], stem: str) -> int:
    found = (re.match(rf"{stem}\.(\d+)\.norm1\.weight", key) for key in keys)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def to_ours(
    state: State, modality: str = "scan", grid: Grid | None = None, axes: Axes = "xyz"
) -> dict[str, Tensor]:
    """Their entries as the state of a `monai_mae` model with one modality of this name.

    grid: the lattice (z, y, x); a cube when not given. Raises: ValueError for other keys.
    """
    if not matches(state):
        raise ValueError("MONAI layout: these are not the keys of a MaskedAutoEncoderViT.")
    adapter = f"adapters.{modality}"
    kernel = state.get(KERNEL)
    grid = grid or cube(state["decoder_pos_embedding"].shape[1])
    if kernel is None:
        kernel = kernel_of_linear(state[LINEAR])
    patch = tuple(kernel.shape[2:])
    embedding = "patch_embedding.patch_embeddings" + ("" if KERNEL in state else ".1")
    made = {
        f"{adapter}.proj.weight": kernel_to_ours(kernel, axes),
        f"{adapter}.proj.bias": state[f"{embedding}.bias"],
        f"{adapter}.position.table": table_to_ours(
            state["patch_embedding.position_embeddings"], grid, axes
        ),
        f"{adapter}.decoder_position.table": table_to_ours(
            state["decoder_pos_embedding"], grid, axes
        ),
        f"{adapter}.decoder_name": torch.zeros_like(state["mask_tokens"]).flatten(),
        f"{adapter}.pred.weight": rows_to_ours(state["decoder_pred.weight"], patch, axes),
        f"{adapter}.pred.bias": rows_to_ours(state["decoder_pred.bias"], patch, axes),
        "encoder.globals": state["cls_token"][0],
        "decoder.mask_token": state["mask_tokens"].flatten(),
    }
    for kind in ("weight", "bias"):
        made[f"decoder.embed.{kind}"] = state[f"decoder_embed.{kind}"]
    for stem, ours in (("blocks", "encoder"), ("decoder_blocks", "decoder")):
        count = depth(state, stem)
        made |= blocks_to_ours(state, stem, f"{ours}.blocks")
        for kind in ("weight", "bias"):
            made[f"{ours}.norm.{kind}"] = state[f"{stem}.{count}.{kind}"]
    return made


def to_theirs(
    state: State,
    patch: tuple[int, int, int],
    modality: str = "scan",
    grid: Grid | None = None,
    axes: Axes = "xyz",
    unused: bool = True,
) -> dict[str, Tensor]:
    """The state of a `monai_mae` model under their names, with a "conv" embedding.

    patch: voxels (z, y, x). unused: with the norms that newer MONAI has and nothing reads. Our
    modality embedding, which they lack, is added to the decoder's position table.
    """
    adapter = f"adapters.{modality}"
    name = state[f"{adapter}.decoder_name"]
    grid = grid or cube(len(state[f"{adapter}.position.table"]))
    turned = patch[::-1] if axes == "xyz" else patch
    made = {
        "cls_token": state["encoder.globals"][None],
        "mask_tokens": state["decoder.mask_token"][None, None],
        KERNEL: kernel_to_theirs(state[f"{adapter}.proj.weight"], patch, axes),
        "patch_embedding.patch_embeddings.bias": state[f"{adapter}.proj.bias"],
        "patch_embedding.position_embeddings": table_to_theirs(
            state[f"{adapter}.position.table"], grid, axes
        ),
        "decoder_pos_embedding": table_to_theirs(
            state[f"{adapter}.decoder_position.table"] + name, grid, axes
        ),
        "decoder_pred.weight": rows_to_theirs(state[f"{adapter}.pred.weight"], turned, axes),
        "decoder_pred.bias": rows_to_theirs(state[f"{adapter}.pred.bias"], turned, axes),
    }
    for kind in ("weight", "bias"):
        made[f"decoder_embed.{kind}"] = state[f"decoder.embed.{kind}"]
    for stem, ours in (("blocks", "encoder"), ("decoder_blocks", "decoder")):
        blocks = blocks_to_theirs(state, f"{ours}.blocks", stem, unused)
        count = depth(blocks, stem)
        made |= blocks
        for kind in ("weight", "bias"):
            made[f"{stem}.{count}.{kind}"] = state[f"{ours}.norm.{kind}"]
    return made


# --- pieces, which BM-MAE shares ------------------------------------------------------------------


def blocks_to_ours(state: State, theirs: str, ours: str) -> dict[str, Tensor]:
    """All blocks below a stem; the norms that nothing reads are left out."""
    made = {}
    for key, value in state.items():
        match = re.fullmatch(rf"{re.escape(theirs)}\.(\d+)\.(.+)\.(weight|bias)", key)
        if match and match[2] in INNER:
            made[f"{ours}.{match[1]}.{INNER[match[2]]}.{match[3]}"] = value
    return made


def blocks_to_theirs(state: State, ours: str, theirs: str, unused: bool) -> dict[str, Tensor]:
    back, made = {our: their for their, our in INNER.items()}, {}
    for key, value in state.items():
        match = re.fullmatch(rf"{re.escape(ours)}\.(\d+)\.(.+)\.(weight|bias)", key)
        if match:
            made[f"{theirs}.{match[1]}.{back[match[2]]}.{match[3]}"] = value
            if unused and match[2] == "norm1":
                still = torch.ones_like(value) if match[3] == "weight" else torch.zeros_like(value)
                made[f"{theirs}.{match[1]}.{UNUSED}.{match[3]}"] = still
    return made


def kernel_to_ours(kernel: Tensor, axes: Axes) -> Tensor:
    """(w, c, three axes) to (w, z y x c)."""
    if axes == "xyz":
        return rearrange(kernel, "w c x y z -> w (z y x c)").contiguous()
    return rearrange(kernel, "w c z y x -> w (z y x c)").contiguous()


def kernel_to_theirs(weight: Tensor, patch: tuple[int, int, int], axes: Axes) -> Tensor:
    z, y, _ = patch
    channels = weight.shape[1] // (patch[0] * patch[1] * patch[2])
    to = "x y z" if axes == "xyz" else "z y x"
    return rearrange(weight, f"w (z y x c) -> w c {to}", z=z, y=y, c=channels).contiguous()


def rows_to_ours(rows: Tensor, patch: tuple[int, ...], axes: Axes) -> Tensor:
    """Rows that answer for (three axes, channel), put in the order (z, y, x, channel)."""
    if axes == "zyx":
        return rows
    a, b, d = patch
    made = rearrange(rows.reshape(len(rows), -1), "(a b d c) k -> (d b a c) k", a=a, b=b, d=d)
    return made.reshape(rows.shape).contiguous()


def rows_to_theirs(rows: Tensor, patch: tuple[int, ...], axes: Axes) -> Tensor:
    if axes == "zyx":
        return rows
    return rows_to_ours(rows, patch[::-1], axes)


def table_to_ours(table: Tensor, grid: Grid, axes: Axes) -> Tensor:
    return table[0] if axes == "zyx" else turned_table(table[0], grid).contiguous()


def table_to_theirs(table: Tensor, grid: Grid, axes: Axes) -> Tensor:
    return (table if axes == "zyx" else turned_table(table, grid[::-1])).contiguous()[None]


def cube(tokens: int) -> Grid:
    side = round(tokens ** (1 / 3))
    if side**3 != tokens:
        raise ValueError(f"MONAI layout: {tokens} tokens are no cube; say grid=(z, y, x).")
    return side, side, side


def kernel_of_linear(weight: Tensor) -> Tensor:
    """A "perceptron" weight as a kernel. It does not tell its axes: cubes of one channel only."""
    side = round(weight.shape[1] ** (1 / 3))
    if side**3 != weight.shape[1]:
        raise ValueError(
            f"MONAI layout: {weight.shape[1]} numbers a token are no cube of one channel; only "
            "weights of a 'conv' embedding say their patch."
        )
    return rearrange(weight, "w (a b d) -> w 1 a b d", a=side, b=side, d=side)


# --- models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What the weights do not tell. grid: lattice (z, y, x), a cube when not given; positions:
    "sincos" (fixed) or "learnable"."""

    grid: Grid | None = None
    heads: int = 12
    decoder_heads: int = 12
    positions: str = "sincos"
    modality: str = "scan"
    axes: Axes = "xyz"


def read(state: State, facts: Facts) -> Foreign:
    """Their entries as a model of the recipe `monai_mae`. Raises: ValueError for other keys."""
    if not matches(state):
        found = {key for key in state if UNUSED not in key}
        raise ValueError(f"monai-mae layout: {told_difference(found, wanted(state))}")
    kernel = state.get(KERNEL)
    if kernel is None:
        kernel = kernel_of_linear(state[LINEAR])
    grid = facts.grid or cube(state["decoder_pos_embedding"].shape[1])
    patch = tuple(kernel.shape[2:])[:: -1 if facts.axes == "xyz" else 1]
    size = tuple(cells * side for cells, side in zip(grid, patch, strict=True))
    tokenizer = plugins.load("modalities", "volume")(size, patch, kernel.shape[1])
    model = monai_mae(
        {facts.modality: tokenizer},
        width=kernel.shape[0],
        depth=depth(state, "blocks"),
        heads=facts.heads,
        mlp=len(state["blocks.0.mlp.linear1.bias"]),
        decoder_width=state["mask_tokens"].shape[-1],
        decoder_depth=depth(state, "decoder_blocks"),
        decoder_heads=facts.decoder_heads,
        decoder_mlp=len(state["decoder_blocks.0.mlp.linear1.bias"]),
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        positions=facts.positions,
    ).model
    model.load_state_dict(to_ours(state, facts.modality, grid, facts.axes))
    return Foreign(model.eval(), tuple(sorted(key for key in state if UNUSED in key)))


def write(model: MaskedModel, axes: Axes = "xyz") -> dict[str, Tensor]:
    """The model's weights in their names. Raises: ValueError for one that they cannot hold."""
    parts = parts_of(model, "monai-mae layout", axes=3)
    if parts.decoder is None or len(parts.state["encoder.globals"]) != 1:
        raise ValueError("monai-mae layout: it holds models with a decoder and one class token.")
    name = f"{parts.prefix}.decoder_name"
    tables = {  # written out, also where ours are computed; with our modality embedding
        f"{parts.prefix}.position.table": parts.table,
        f"{parts.prefix}.decoder_position.table": parts.decoder_table,
        name: torch.zeros(parts.decoder.width),
        f"{parts.prefix}.proj.bias": parts.content_bias,
    }
    patch = (parts.box[0], parts.box[1], parts.box[2])
    modality = parts.prefix.removeprefix("adapters.")
    made = to_theirs(parts.state | tables, patch, modality, parts.grid, axes)
    return {key: value.detach().clone().contiguous() for key, value in made.items()}
