"""Weights of MONAI's `ViT` in three dimensions (a bare state dict).

Held against MONAI's own class, entry by entry and in what both put out. Axes and the order of the
numbers are as in `monai_mae`. The encoder alone: `classification_head` is left aside. MONAI's
class token has no position.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from multimask import plugins
from multimask.checkpoints.layouts.foreign import (
    Foreign,
    State,
    depth,
    heads_of,
    parts_of,
    share,
    told_difference,
)
from multimask.checkpoints.layouts.monai_mae import (
    INNER,
    KERNEL,
    LINEAR,
    UNUSED,
    Axes,
    blocks_to_ours,
    blocks_to_theirs,
    cube,
    kernel_of_linear,
    kernel_to_ours,
    kernel_to_theirs,
    table_to_ours,
    table_to_theirs,
)
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter
from multimask.nn.encoders import Encoder
from multimask.nn.positions import Learned
from multimask.tokens import Grid

HEAD = "classification_head."


@dataclass(frozen=True)
class Facts:
    """What the weights do not tell. grid: lattice (z, y, x), a cube when not given."""

    grid: Grid | None = None
    heads: int | None = None
    modality: str = "scan"
    axes: Axes = "xyz"
    patch: tuple[int, int, int] | None = None


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of a `ViT` of MONAI."""
    if not ({KERNEL, LINEAR} & set(keys)) or "mask_tokens" in keys:
        return False
    return wanted(keys) == relevant(keys)


def relevant(keys: Collection[str]) -> set[str]:
    return {key for key in keys if UNUSED not in key and not key.startswith(HEAD)}


def wanted(keys: Collection[str]) -> set[str]:
    embedding = (KERNEL if KERNEL in keys else LINEAR).removesuffix(".weight")
    names = {"patch_embedding.position_embeddings", "norm.weight", "norm.bias"}
    names |= {f"{embedding}.weight", f"{embedding}.bias"} | ({"cls_token"} & set(keys))
    for index in range(depth(keys, "blocks")):
        names |= {f"blocks.{index}.{m}.{k}" for m in INNER for k in ("weight", "bias")}
        if "blocks.0.attn.qkv.bias" not in keys:
            names.discard(f"blocks.{index}.attn.qkv.bias")
    return names


def read(state: State, facts: Facts) -> Foreign:
    """Their entries as a model of ours without a decoder.

    Raises: ValueError for other keys, and a lattice that is not told and no cube.
    """
    if not matches(state):
        raise ValueError(f"monai-vit layout: {told_difference(relevant(state), wanted(state))}")
    kernel = state.get(KERNEL)
    if kernel is None:
        kernel = kernel_of_linear(state[LINEAR])
    table = state["patch_embedding.position_embeddings"]
    grid = facts.grid or cube(table.shape[1])
    sides = tuple(kernel.shape[2:])
    patch = sides[::-1] if facts.axes == "xyz" else sides
    size = tuple(cells * side for cells, side in zip(grid, patch, strict=True))
    tokenizer = plugins.load("modalities", "volume")(size, patch, kernel.shape[1])
    width, name = kernel.shape[0], facts.modality
    encoder = Encoder(
        width,
        depth(state, "blocks"),
        facts.heads or heads_of(width, "heads"),
        share(len(state["blocks.0.mlp.linear1.bias"]), width),
        num_globals=1 if "cls_token" in state else 0,
        eps=1e-5,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
    )
    adapter = LinearAdapter(tokenizer, width, None, position=Learned)
    model = MaskedModel({name: tokenizer}, encoder, False, {name: adapter})
    embedding = (KERNEL if KERNEL in state else LINEAR).removesuffix(".weight")
    made = cast(dict[str, Tensor], model.state_dict()) | {
        f"adapters.{name}.proj.weight": kernel_to_ours(kernel, facts.axes),
        f"adapters.{name}.proj.bias": state[f"{embedding}.bias"],
        f"adapters.{name}.position.table": table_to_ours(table, grid, facts.axes),
        "encoder.norm.weight": state["norm.weight"],
        "encoder.norm.bias": state["norm.bias"],
    }
    if "cls_token" in state:
        made["encoder.globals"] = state["cls_token"][0]
    made |= blocks_to_ours(state, "blocks", "encoder.blocks")
    model.load_state_dict(made)
    unused = tuple(sorted(key for key in state if key.startswith(HEAD) or UNUSED in key))
    return Foreign(model.eval(), unused)


def write(model: MaskedModel, axes: Axes = "xyz") -> dict[str, Tensor]:
    """The model's weights in their names, with a "conv" embedding and with the norms that newer
    MONAI has and nothing reads. Raises: ValueError for a model that this layout cannot hold."""
    parts = parts_of(model, "monai-vit layout", axes=3)
    patch = (parts.box[0], parts.box[1], parts.box[2])
    state = parts.state
    kernel = kernel_to_theirs(state[f"{parts.prefix}.proj.weight"], patch, axes)
    made = {
        KERNEL: kernel,
        "patch_embedding.patch_embeddings.bias": parts.content_bias,
        "patch_embedding.position_embeddings": table_to_theirs(parts.table, parts.grid, axes),
        "norm.weight": state["encoder.norm.weight"],
        "norm.bias": state["encoder.norm.bias"],
    }
    if len(state["encoder.globals"]):
        made["cls_token"] = state["encoder.globals"][None]
    made |= blocks_to_theirs(state, "encoder.blocks", "blocks", unused=True)
    return {key: value.detach().clone().contiguous() for key, value in made.items()}
