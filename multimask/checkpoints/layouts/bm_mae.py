"""Weights of BM-MAE (Lucas-rbnt/BM-MAE, `bmmae.pth`): a bare state dict of four MRI contrasts.

Held against a key list written out from their code and, in outputs, against a restatement of it
with MONAI's blocks; no file of theirs was tried. Their arrays have the axes (x, y, z); kernels,
heads and tables are turned to ours. One head answers for all their contrasts: each of ours starts
as a copy of it, and going back they must still be equal.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from multimask import plugins
from multimask.checkpoints.layouts.foreign import Foreign, heads_of, told_difference
from multimask.checkpoints.layouts.monai_mae import (
    INNER,
    UNUSED,
    State,
    blocks_to_ours,
    blocks_to_theirs,
    cube,
    depth,
    kernel_to_ours,
    kernel_to_theirs,
    rows_to_ours,
    rows_to_theirs,
    table_to_ours,
    table_to_theirs,
)
from multimask.modality import HasBox
from multimask.model import MaskedModel

CONTRASTS = ("t1", "t1ce", "t2", "flair")  # their order, which their decoder relies on


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of a BM-MAE pre-training file."""
    return bool(keys) and set(wanted(keys)) == {key for key in keys if UNUSED not in key}


@dataclass(frozen=True)
class Facts:
    """What the weights do not tell."""

    heads: int | None = None
    decoder_heads: int = 12


def read(state: State, facts: Facts) -> Foreign:
    """Their entries as a model of ours over all their contrasts."""
    if not matches(state):
        raise ValueError(f"bm-mae layout: {told_difference(state, wanted(state))}")
    tokenizers = {}
    for name in contrasts_of(state):
        stem = f"tokenizers.{name}.patch_embedding"
        grid = cube(state[f"{stem}.position_embeddings"].shape[1])
        patch = tuple(state[f"{stem}.patch_embeddings.weight"].shape[2:])[::-1]
        size = tuple(cells * side for cells, side in zip(grid, patch, strict=True))
        tokenizers[name] = plugins.load("modalities", "volume")(size, patch)
    width = state["cls_token"].shape[2]
    model = plugins.load("methods", "bm-mae")(
        tokenizers,
        width=width,
        depth=depth(state, "blocks"),
        heads=facts.heads or heads_of(width, "heads"),
        mlp=len(state["blocks.0.mlp.linear1.bias"]),
        decoder_width=state["decoder.mask_tokens"].shape[2],
        decoder_depth=depth(state, "decoder.decoder_blocks"),
        decoder_heads=facts.decoder_heads,
        decoder_mlp=len(state["decoder.decoder_blocks.0.mlp.linear1.bias"]),
    ).model
    model.load_state_dict(to_ours(state))
    unused = tuple(sorted(key for key in state if UNUSED in key))
    return Foreign(model.eval(), unused)


def write(model: MaskedModel) -> dict[str, Tensor]:
    """The model's weights in their names. Raises: ValueError for a model that this layout cannot
    hold: their contrasts share one head."""
    state = {k: v.detach().cpu() for k, v in cast(dict[str, Tensor], model.state_dict()).items()}
    boxes = {t.box for t in model.tokenizers.values() if isinstance(t, HasBox)}
    held = "decoder.mask_token" in state and "encoder.globals" in state
    if len(boxes) != 1 or not held or len(next(iter(boxes))) != 3:
        raise ValueError("bm-mae layout: it holds contrasts of one patch size and a joint decoder.")
    (box,) = boxes
    made = to_theirs(state, (box[0], box[1], box[2]))
    return {key: value.clone().contiguous() for key, value in made.items()}


def contrasts_of(keys: Collection[str]) -> list[str]:
    """Contrasts that a file has tokenizers for."""
    return sorted({key.split(".")[1] for key in keys if key.startswith("tokenizers.")})


def wanted(keys: Collection[str]) -> list[str]:
    """All keys of a file with as many blocks and contrasts as `keys` names."""
    names = ["cls_token", "norm.weight", "norm.bias"]
    for name in contrasts_of(keys):
        stem = f"tokenizers.{name}.patch_embedding"
        names += [f"{stem}.position_embeddings", f"decoder.modality_embeddings.{name}"]
        names += [f"{stem}.patch_embeddings.{kind}" for kind in ("weight", "bias")]
    names += ["decoder.mask_tokens", "decoder.position_embeddings"]
    for module in ("decoder_embed", "decoder_norm", "decoder_pred"):
        names += [f"decoder.{module}.{kind}" for kind in ("weight", "bias")]
    for stem in ("blocks", "decoder.decoder_blocks"):
        for index in range(depth(keys, stem)):
            names += [f"{stem}.{index}.{m}.{k}" for m in INNER for k in ("weight", "bias")]
    return names


def to_ours(state: State, contrasts: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Their entries as the state of a `bm_mae` model over these contrasts, all when not given.

    Raises: ValueError for other keys, and contrasts that the file does not have.
    """
    if not matches(state):
        raise ValueError("BM-MAE layout: these are not the keys of a BM-MAE pre-training file.")
    found = contrasts_of(state)
    names = list(contrasts or found)
    if not set(names) <= set(found):
        raise ValueError(
            f"BM-MAE layout: expected contrasts among {', '.join(found)}, found {', '.join(names)}."
        )
    made = {
        "encoder.globals": state["cls_token"][0],
        "encoder.norm.weight": state["norm.weight"],
        "encoder.norm.bias": state["norm.bias"],
        "decoder.mask_token": state["decoder.mask_tokens"].flatten(),
    }
    for kind in ("weight", "bias"):
        made[f"decoder.embed.{kind}"] = state[f"decoder.decoder_embed.{kind}"]
        made[f"decoder.norm.{kind}"] = state[f"decoder.decoder_norm.{kind}"]
    made |= blocks_to_ours(state, "blocks", "encoder.blocks")
    made |= blocks_to_ours(state, "decoder.decoder_blocks", "decoder.blocks")
    for name in names:
        stem, adapter = f"tokenizers.{name}.patch_embedding", f"adapters.{name}"
        kernel, table = (
            state[f"{stem}.patch_embeddings.weight"],
            state[f"{stem}.position_embeddings"],
        )
        grid, patch = cube(table.shape[1]), tuple(kernel.shape[2:])
        answers = state["decoder.position_embeddings"]
        made |= {
            f"{adapter}.proj.weight": kernel_to_ours(kernel, "xyz"),
            f"{adapter}.proj.bias": state[f"{stem}.patch_embeddings.bias"],
            f"{adapter}.position.table": table_to_ours(table, grid, "xyz"),
            f"{adapter}.decoder_position.table": table_to_ours(answers, grid, "xyz"),
            f"{adapter}.decoder_name": state[f"decoder.modality_embeddings.{name}"].flatten(),
        }
        for kind in ("weight", "bias"):
            rows = state[f"decoder.decoder_pred.{kind}"]
            made[f"{adapter}.pred.{kind}"] = rows_to_ours(rows, patch, "xyz").clone()
    return made


def to_theirs(
    state: State, patch: tuple[int, int, int] = (16, 16, 16), unused: bool = False
) -> dict[str, Tensor]:
    """The state of a `bm_mae` model under their names.

    unused: with the norms that MONAI since 1.4 adds to every block. Raises: ValueError where the
    contrasts' heads or decoder positions differ, since theirs share one.
    """
    names = sorted({key.split(".")[1] for key in state if key.startswith("adapters.")})
    shared = [f"pred.{kind}" for kind in ("weight", "bias")] + ["decoder_position.table"]
    for name in names[1:]:
        for key in shared:
            if not torch.equal(
                state[f"adapters.{names[0]}.{key}"], state[f"adapters.{name}.{key}"]
            ):
                raise ValueError(
                    f"BM-MAE layout: one {key.split('.')[0]} answers for all contrasts, but those "
                    f"of {names[0]} and {name} differ."
                )
    first = f"adapters.{names[0]}"
    grid = cube(len(state[f"{first}.position.table"]))
    made = {
        "cls_token": state["encoder.globals"][None],
        "norm.weight": state["encoder.norm.weight"],
        "norm.bias": state["encoder.norm.bias"],
        "decoder.mask_tokens": state["decoder.mask_token"][None, None],
        "decoder.position_embeddings": table_to_theirs(
            state[f"{first}.decoder_position.table"], grid, "xyz"
        ),
    }
    for kind in ("weight", "bias"):
        made[f"decoder.decoder_embed.{kind}"] = state[f"decoder.embed.{kind}"]
        made[f"decoder.decoder_norm.{kind}"] = state[f"decoder.norm.{kind}"]
        rows = state[f"{first}.pred.{kind}"]
        made[f"decoder.decoder_pred.{kind}"] = rows_to_theirs(rows, patch[::-1], "xyz")
    made |= blocks_to_theirs(state, "encoder.blocks", "blocks", unused)
    made |= blocks_to_theirs(state, "decoder.blocks", "decoder.decoder_blocks", unused)
    for name in names:
        stem, adapter = f"tokenizers.{name}.patch_embedding", f"adapters.{name}"
        kernel = kernel_to_theirs(state[f"{adapter}.proj.weight"], patch, "xyz")
        made[f"{stem}.patch_embeddings.weight"] = kernel
        made[f"{stem}.patch_embeddings.bias"] = state[f"{adapter}.proj.bias"]
        table = table_to_theirs(state[f"{adapter}.position.table"], grid, "xyz")
        made[f"{stem}.position_embeddings"] = table
        made[f"decoder.modality_embeddings.{name}"] = state[f"{adapter}.decoder_name"][None, None]
    return made
