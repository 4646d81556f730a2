"""What the layouts of other projects' weights share."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from multimask.modality import HasBox, HasGrid
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import SIZES, Encoder
from multimask.nn.positions import CoordMLP

State = Mapping[str, Tensor]
HEADS = {width: heads for width, _, heads in SIZES.values()} | {512: 16}  # 512: MAE's decoder


@dataclass(frozen=True)
class Foreign:
    """Another project's weights as a model of ours, built to their sizes.

    unused: entries of theirs that have no place in it. head: weights that name classes, in a
    fine-tuning head's names, where the file has them.
    """

    model: MaskedModel
    unused: tuple[str, ...] = ()
    head: dict[str, Tensor] | None = None


def depth(keys: Collection[str], stem: str) -> int:
    """How many numbered blocks there are below a stem."""
    found = (re.match(rf"{re.escape(stem)}\.(\d+)\.", key) for key in keys)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def heads_of(width: int, what: str) -> int:
    """Attention heads of a published width. Raises ValueError for others: weights do not tell."""
    if width not in HEADS:
        raise ValueError(
            f"weights do not tell their number of attention heads, and width {width} is no "
            f"published size; say {what}=..."
        )
    return HEADS[width]


def share(hidden: int, width: int) -> float:
    """The ratio that a block turns back into exactly this hidden width."""
    whole = hidden / width
    return whole if int(width * whole) == hidden else (hidden + 0.5) / width


def told_difference(found: Collection[str], expected: Collection[str]) -> str:
    """What is missing and what is not theirs, in one sentence."""
    missing, strange = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    told = [f"{len(missing)} keys are missing (first {missing[0]})"] if missing else []
    told += [f"{len(strange)} are not theirs (first {strange[0]})"] if strange else []
    return f"{', '.join(told) or 'these are not its keys'}."


# --- a model of ours, as far as other projects' layouts reach -------------------------------------


@dataclass(frozen=True)
class Parts:
    """A plain transformer over one lattice: what can be written in others' names."""

    state: dict[str, Tensor]
    encoder: Encoder
    decoder: JointDecoder | None
    prefix: str
    channels: int
    box: tuple[int, ...]
    grid: tuple[int, ...]
    table: Float[Tensor, "n w"]
    decoder_table: Float[Tensor, "n v"]
    content_bias: Float[Tensor, " w"]


def parts_of(model: MaskedModel, who: str, axes: int) -> Parts:
    """Raises ValueError, saying why, for models that are more than that."""
    if len(model.slots) != 1:
        raise ValueError(f"{who}: it holds one modality, the model has {', '.join(model.slots)}.")
    (name,) = model.slots
    tokenizer, adapter = model.tokenizers[name], model.adapters[name]
    encoder, decoder = model.encoder, model.decoder
    if not isinstance(tokenizer, HasBox) or not isinstance(tokenizer, HasGrid):
        raise ValueError(f"{who}: it holds lattices, {type(tokenizer).__name__} cuts none.")
    if len(tokenizer.box) != axes:
        raise ValueError(
            f"{who}: it holds lattices of {axes} axes, {type(tokenizer).__name__} has "
            f"{len(tokenizer.box)}."
        )
    if not isinstance(adapter, LinearAdapter) or isinstance(adapter.position, CoordMLP):
        raise ValueError(f"{who}: it holds linear adapters with position tables, not {adapter}.")
    if (
        not isinstance(encoder, Encoder)
        or encoder.places_when != "once"
        or encoder.globals_at != "first"
        or encoder.keeps_hidden
    ):
        raise ValueError(
            f"{who}: it holds encoders that drop hidden tokens, with class tokens first and "
            "positions added once."
        )
    if decoder is not None and not (
        isinstance(decoder, JointDecoder) and decoder.use_globals and decoder.places_when == "once"
    ):
        raise ValueError(f"{who}: it holds joint decoders that read the class token.")
    state = {k: v.detach().cpu() for k, v in cast(dict[str, Tensor], model.state_dict()).items()}
    slots = torch.arange(model.num_tokens[name], device=model.device)
    coords = torch.zeros(len(slots), tokenizer.coord_dim, device=model.device)
    with torch.no_grad():
        table = adapter.place(coords, slots, tokenizer.grid).cpu()
        answers = table[:, :0]
        if decoder is not None:
            answers = adapter.decoder_place(coords, slots, tokenizer.grid).cpu()
    bias = state[f"adapters.{name}.proj.bias"]
    if adapter.name is not None:
        bias = bias + state[f"adapters.{name}.name"]
    return Parts(
        state,
        encoder,
        decoder,
        f"adapters.{name}",
        tokenizer.channels,
        tokenizer.box,
        tokenizer.grid,
        table,
        answers,
        bias,
    )
