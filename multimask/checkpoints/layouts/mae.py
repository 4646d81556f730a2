"""Weights in the names of facebookresearch/mae, which are those of timm's ViT as well.

One file holds one of four things: an encoder (`mae_pretrain_vit_*.pth`), an encoder and a decoder
(`*_full.pth`, trained on normalised patches; `mae_visualize_*.pth`, on plain ones), or a fine-tuned
classifier (`fc_norm` and `head`, no `norm`). timm's ViTs may also have register tokens, layer scale
and a `head` behind `norm`. Held against key lists written out from their code and, through
transformers' ViTMAE, in outputs; no file of theirs was tried.

Their table has a place for the class token, which ours adds to the token itself: on the way back
it is zero, as it always is in MAE's own files.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

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
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter, Target
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder
from multimask.nn.position_tables import FixedTable
from multimask.nn.positions import Learned

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KERNEL = "patch_embed.proj.weight"
INNER = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
HEAD = {"fc_norm": "norm", "head": "linear"}  # theirs: those of a fine-tuning head


@dataclass(frozen=True)
class Facts:
    """What the weights do not tell: from their configuration, or said by the caller."""

    size: tuple[int, int] | None = None
    heads: int | None = None
    decoder_heads: int | None = None
    eps: float = 1e-6
    normalise: bool = True
    mean: Any = None
    std: Any = None
    modality: str = "image"
    trained_table: bool = False
    skipped: tuple[str, ...] = field(default=())


# --- their keys -----------------------------------------------------------------------------------


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of one of MAE's four kinds of files."""
    return KERNEL in keys and not (extras(keys) - {"fc_norm"}) and set(keys) == wanted(keys)


def matches_timm(keys: Collection[str]) -> bool:
    """Whether these are the keys of a ViT of timm."""
    return KERNEL in keys and "mask_token" not in keys and set(keys) == wanted(keys)


def extras(keys: Collection[str]) -> set[str]:
    """What only some of timm's ViTs have."""
    found = {name for name in ("fc_norm", "head", "norm") if f"{name}.weight" in keys}
    found |= {"reg_token"} & set(keys)
    found |= {"ls"} if "blocks.0.ls1.gamma" in keys else set()
    fine_tuned = {"fc_norm", "head"} <= found and "norm" not in found
    return found - {"norm"} - ({"head"} if fine_tuned else set())


def wanted(keys: Collection[str]) -> set[str]:
    """All keys of a file that has as many blocks as these, and what else these name."""
    names = {"cls_token", "pos_embed", KERNEL, "patch_embed.proj.bias"}
    names |= {"reg_token"} & set(keys)
    norm = "fc_norm" if "fc_norm.weight" in keys else "norm"
    names |= both(norm)
    if "head.weight" in keys:
        names |= both("head")
    names |= block_keys(keys, "blocks")
    if "mask_token" in keys:
        names |= {"mask_token", "decoder_pos_embed"}
        for module in ("decoder_embed", "decoder_norm", "decoder_pred"):
            names |= both(module)
        names |= block_keys(keys, "decoder_blocks")
    return names


def block_keys(keys: Collection[str], stem: str) -> set[str]:
    names: set[str] = set()
    for index in range(depth(keys, stem)):
        for module in INNER:
            names |= both(f"{stem}.{index}.{module}")
        if f"{stem}.0.attn.qkv.bias" not in keys:
            names.discard(f"{stem}.{index}.attn.qkv.bias")
        if f"{stem}.0.ls1.gamma" in keys:
            names |= {f"{stem}.{index}.{scale}.gamma" for scale in ("ls1", "ls2")}
    return names


def both(module: str) -> set[str]:
    return {f"{module}.weight", f"{module}.bias"}


# --- theirs to ours -------------------------------------------------------------------------------


def read(state: State, facts: Facts) -> Foreign:
    """Their entries as a model of ours, built to their sizes.

    Raises: ValueError for other keys, and for what must be said because weights do not tell it.
    """
    if set(state) != wanted(state) or KERNEL not in state:
        raise ValueError(f"mae layout: {told_difference(state, wanted(state))}")
    model = build(state, facts)
    name = facts.modality
    table, num_globals = state["pos_embed"][0], len(cast(Encoder, model.encoder).globals)
    learned = torch.cat([state[key][0] for key in ("cls_token", "reg_token") if key in state])
    if len(table) > model.num_tokens[name]:  # theirs adds places to global tokens too
        extra = len(table) - model.num_tokens[name]
        learned = learned + F.pad(table[:extra], (0, 0, 0, num_globals - extra))
        table = table[extra:]
    made = {
        "encoder.globals": learned,
        f"adapters.{name}.proj.weight": rearrange(state[KERNEL], "w c y x -> w (y x c)"),
        f"adapters.{name}.proj.bias": state["patch_embed.proj.bias"],
        f"adapters.{name}.position.table": table,
    }
    renamed = {"norm": "encoder.norm"}
    if "mask_token" in state:
        made["decoder.mask_token"] = state["mask_token"].flatten()
        made[f"adapters.{name}.decoder_position.table"] = state["decoder_pos_embed"][0, 1:]
        renamed |= {
            "decoder_embed": "decoder.embed",
            "decoder_norm": "decoder.norm",
            "decoder_pred": f"adapters.{name}.pred",
        }
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if module in renamed:
            made[f"{renamed[module]}.{kind}"] = value
        elif key.startswith("blocks."):
            made[f"encoder.{key}"] = value
        elif key.startswith("decoder_blocks."):
            made[f"decoder.blocks.{key.removeprefix('decoder_blocks.')}"] = value
    if "mask_token" not in state:  # no answers without a decoder: a head of its own that starts new
        own = cast(dict[str, Tensor], model.state_dict())
        made |= {k: own[k] for k in (f"adapters.{name}.pred.{kind}" for kind in ("weight", "bias"))}
    model.load_state_dict({key: value.contiguous() for key, value in made.items()})
    return Foreign(model.eval(), facts.skipped, head_of(state))


def head_of(state: State) -> dict[str, Tensor] | None:
    """What names classes, in a fine-tuning head's names."""
    if "head.weight" not in state:
        return None
    return {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for theirs, ours in HEAD.items()
        for kind in ("weight", "bias")
        if f"{theirs}.{kind}" in state
    }


def build(state: State, facts: Facts) -> MaskedModel:
    """A model of their shape, with whatever weights."""
    width, channels, tall, wide = state[KERNEL].shape
    prefixes = 1 + (state["reg_token"].shape[1] if "reg_token" in state else 0)
    size = facts.size or square(state["pos_embed"].shape[1], prefixes, (tall, wide))
    mean, std = (facts.mean, facts.std) if facts.mean is not None else statistics(channels)
    tokenizer = plugins.load("modalities", "image")(
        plain(size), plain((tall, wide)), channels, mean, std
    )
    table = Learned if facts.trained_table else FixedTable
    encoder = Encoder(
        width,
        depth(state, "blocks"),
        facts.heads or heads_of(width, "heads"),
        share(len(state["blocks.0.mlp.fc1.bias"]), width),
        num_globals=prefixes,
        eps=facts.eps,
        final_norm="norm.weight" in state,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        layer_scale=1.0 if "blocks.0.ls1.gamma" in state else None,
    )
    decoder, decoder_width = None, None
    if "mask_token" in state:
        decoder_width = state["mask_token"].shape[-1]
        decoder = JointDecoder(
            width,
            decoder_width,
            depth(state, "decoder_blocks"),
            facts.decoder_heads or heads_of(decoder_width, "decoder_heads"),
            share(len(state["decoder_blocks.0.mlp.fc1.bias"]), decoder_width),
            eps=facts.eps,
            qkv_bias="decoder_blocks.0.attn.qkv.bias" in state,
        )
    target = Target("patch" if facts.normalise else "none")
    adapter = LinearAdapter(
        tokenizer, width, decoder_width, target, table, table, decoder_named=False
    )
    return MaskedModel(
        {facts.modality: tokenizer},
        encoder,
        False if decoder is None else decoder,
        {facts.modality: adapter},
        target,
    )


def square(rows: int, prefixes: int, patch: tuple[int, int]) -> tuple[int, int]:
    """Pixels of a table that is square, with or without places for global tokens."""
    for tokens in (rows - prefixes, rows - 1, rows):
        side = round(max(tokens, 0) ** 0.5)
        if side and side * side == tokens:
            return side * patch[0], side * patch[1]
    raise ValueError(f"mae layout: a table of {rows} rows is no square; say size=(height, width).")


def statistics(channels: int) -> tuple[Any, Any]:
    return IMAGENET if channels == 3 else (0.5, 0.5)


def plain(pair: tuple[int, int]) -> int | tuple[int, int]:
    return pair[0] if pair[0] == pair[1] else pair


# --- ours to theirs -------------------------------------------------------------------------------


def write(model: MaskedModel, decoder: bool = True) -> dict[str, Tensor]:
    """The model's weights in their names; without a decoder where it has none or `decoder` is
    False. Fixed tables are written out.

    Raises: ValueError for a model that this layout cannot hold.
    """
    parts = parts_of(model, "mae layout", axes=2)
    channels, (tall, wide) = parts.channels, parts.box
    state, width = parts.state, parts.encoder.width
    if len(state["encoder.globals"]) != 1:
        raise ValueError(
            f"mae layout: expected one global token, the class token, but the model has "
            f"{len(state['encoder.globals'])}."
        )
    adapter = parts.prefix
    theirs = {
        "cls_token": state["encoder.globals"][None],
        "pos_embed": F.pad(parts.table, (0, 0, 1, 0))[None],
        KERNEL: rearrange(
            state[f"{adapter}.proj.weight"], "w (y x c) -> w c y x", y=tall, x=wide, c=channels
        ),
        "patch_embed.proj.bias": parts.content_bias,
    }
    renamed = {"encoder.norm": "norm"}
    decodes = decoder and parts.decoder is not None
    if decodes:
        theirs["mask_token"] = state["decoder.mask_token"][None, None]
        theirs["decoder_pos_embed"] = F.pad(parts.decoder_table, (0, 0, 1, 0))[None]
        renamed |= {
            "decoder.embed": "decoder_embed",
            "decoder.norm": "decoder_norm",
            f"{adapter}.pred": "decoder_pred",
        }
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if module in renamed:
            theirs[f"{renamed[module]}.{kind}"] = value
        elif key.startswith("encoder.blocks."):
            theirs[key.removeprefix("encoder.")] = value
        elif decodes and key.startswith("decoder.blocks."):
            theirs[re.sub(r"^decoder\.blocks", "decoder_blocks", key)] = value
    assert theirs["pos_embed"].shape[-1] == width
    return {key: value.detach().clone().contiguous() for key, value in theirs.items()}


def write_head(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A fine-tuning head's weights in their names."""
    theirs = {ours: name for name, ours in HEAD.items()}
    return {
        f"{theirs[module]}.{kind}": value.detach().clone()
        for key, value in head.items()
        for module, _, kind in [key.rpartition(".")]
    }
