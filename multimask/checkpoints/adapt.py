"""Weights from one model into another that differs in lattice, patch, channels or modalities.

Both are models of ours: other projects' weights are first built as a model to their own sizes
(`multimask.checkpoints.layouts`). What does not fit is adapted where that means something, left as
the target begins where it does not, and all of it is told in a `Report`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.modality import HasBox, HasGrid, Tokenizer
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter
from multimask.nn.positions import interpolate_table

SHOWN = 4  # names of a group in a printed report


@dataclass(frozen=True)
class Report:
    """What became of every weight.

    matched: copied as they are. adapted: how, by name. fresh: weights of the model for which there
    was nothing, as they began. skipped: weights that were given and not used, and why. notes: what
    else differs.
    """

    source: str
    matched: tuple[str, ...]
    adapted: Mapping[str, str]
    fresh: tuple[str, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {len(self.matched)} weights matched, {len(self.adapted)} adapted, "
            f"{len(self.fresh)} new, {len(self.skipped)} left aside"
        ]
        lines += [f"  adapted     {name}: {how}" for name, how in self.adapted.items()]
        lines += [f"  new         {line}" for line in shortened(self.fresh)]
        reasons = dict.fromkeys(self.skipped.values())
        for reason in reasons:
            names = [name for name, why in self.skipped.items() if why == reason]
            lines += [f"  left aside  {line}: {reason}" for line in shortened(names)]
        return "\n".join(lines + [f"  note        {note}" for note in self.notes])


def shortened(names: Iterable[str]) -> list[str]:
    names = list(names)
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [", ".join(islice(names, SHOWN)) + more]


def pour(source: MaskedModel, target: MaskedModel, name: str = "weights") -> Report:
    """Put the source's weights into the target, in place.

    Modalities are paired by name, or, where each has a single one, with each other.
    Raises: ValueError where the encoders differ in size: nothing would be worth keeping.
    """
    check_encoders(source, target)
    pairs = paired(source, target)
    given = cast(dict[str, Tensor], source.state_dict())
    wanted = cast(dict[str, Tensor], target.state_dict())
    used, adapted, matched, fresh = set[str](), dict[str, str](), [], []
    skipped: dict[str, str] = {}
    for key, value in wanted.items():
        other = theirs(key, pairs)
        if other is None or other not in given:
            fresh.append(key)
            continue
        used.add(other)
        made, how = fitted(source, target, pairs, key, given[other], value)
        if made is None:
            fresh.append(key)
            skipped[other] = how
            continue
        wanted[key] = made
        if how:
            adapted[key] = how
        else:
            matched.append(key)
    for key in given:
        if key not in used:
            skipped[key] = "the model has no place for it"
    target.load_state_dict(wanted)
    notes = differences(source, target, pairs)
    return Report(name, tuple(matched), adapted, tuple(fresh), skipped, tuple(notes))


def paired(source: MaskedModel, target: MaskedModel) -> dict[str, str]:
    """Target's modality to source's."""
    if len(source.slots) == len(target.slots) == 1:
        return {next(iter(target.slots)): next(iter(source.slots))}
    return {name: name for name in target.slots if name in source.slots}


def theirs(key: str, pairs: Mapping[str, str]) -> str | None:
    if not key.startswith("adapters."):
        return key
    _, name, rest = key.split(".", 2)
    return f"adapters.{pairs[name]}.{rest}" if name in pairs else None


def check_encoders(source: MaskedModel, target: MaskedModel) -> None:
    sizes = [encoder_sizes(model) for model in (source, target)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"these weights are of an encoder with {said(sizes[0])}, the model's has "
            f"{said(sizes[1])}; build it to their size."
        )


def encoder_sizes(model: MaskedModel) -> dict[str, Any]:
    """What weights cannot be carried over without."""
    encoder = cast(nn.Module, model.encoder)
    arguments = cast(dict[str, Any], getattr(encoder, "arguments", {}))
    found = {key: arguments[key] for key in ("width", "depth", "heads") if key in arguments}
    ratio, width = arguments.get("mlp_ratio"), arguments.get("width")
    if ratio is not None and width is not None:
        found["hidden"] = int(width * ratio)
    return {"kind": type(encoder).__name__, **found}


def said(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sizes.items())


# --- one weight -----------------------------------------------------------------------------------


def fitted(
    source: MaskedModel,
    target: MaskedModel,
    pairs: Mapping[str, str],
    key: str,
    given: Tensor,
    value: Tensor,
) -> tuple[Tensor | None, str]:
    """The weight for this place and how it was adapted ("" for as it is); None and why not."""
    if key.startswith("adapters."):
        _, name, rest = key.split(".", 2)
        ends = (source.tokenizers[pairs[name]], target.tokenizers[name])
        adapters = (source.adapters[pairs[name]], target.adapters[name])
        linear = all(isinstance(adapter, LinearAdapter) for adapter in adapters)
        if linear and rest in ADAPTED and all(isinstance(end, HasBox) for end in ends):
            return ADAPTED[rest](given, *cast(tuple[HasBox, HasBox], ends))
        if linear and rest in TABLES and all(isinstance(end, HasGrid) for end in ends):
            return adapted_table(given, *cast(tuple[HasGrid, HasGrid], ends))
    if given.shape != value.shape:
        return None, f"its shape is {tuple(given.shape)}, the model wants {tuple(value.shape)}"
    return given.clone(), ""


def adapted_table(given: Tensor, old: HasGrid, new: HasGrid) -> tuple[Tensor | None, str]:
    if old.grid == new.grid:
        return given.clone(), ""
    if len(old.grid) != len(new.grid):
        return None, f"a table of {times(old.grid)} places has other axes than {times(new.grid)}"
    return (
        interpolate_table(given, old.grid, new.grid),
        f"{times(old.grid)} places interpolated to {times(new.grid)}",
    )


def adapted_content(given: Tensor, old: HasBox, new: HasBox) -> tuple[Tensor | None, str]:
    """The weight that reads tokens, `(w, box and channel)`."""
    if len(old.box) != len(new.box):
        return None, other_axes(old, new)
    kernel = as_boxes(given.T, old).movedim(-1, 0)  # (w, c, box)
    how = []
    if old.box != new.box:
        for axis, sides in enumerate(zip(old.box, new.box, strict=True)):
            # so that an enlarged token gives what the token gave (FlexiViT, Beyer et al. 2023)
            inverse = torch.linalg.pinv(resizing(*sides).T)
            kernel = along(kernel, 2 + axis, inverse)
        how.append(f"patch {times(old.box)} resized to {times(new.box)}")
    if old.channels != new.channels:
        kernel = content_channels(kernel, new.channels)
        how.append(f"{old.channels} channels to {new.channels}")
    made = from_boxes(kernel.movedim(0, -1)).T.contiguous()
    return made, ", ".join(how)


def content_channels(kernel: Float[Tensor, "w c *box"], channels: int) -> Tensor:
    """A single channel reads the sum; others repeat the old ones in turn, scaled so that the sum
    stays (as timm does it)."""
    old = kernel.shape[1]
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    return kernel[:, torch.arange(channels) % old] * (old / channels)


def adapted_answers(given: Tensor, old: HasBox, new: HasBox) -> tuple[Tensor | None, str]:
    """The weight or bias that answers for tokens, `(box and channel, ...)`."""
    if len(old.box) != len(new.box):
        return None, other_axes(old, new)
    flat = given.unsqueeze(1) if given.ndim == 1 else given
    rows = as_boxes(flat, old)  # (c, box, w)
    how = []
    if old.box != new.box:
        for axis, sides in enumerate(zip(old.box, new.box, strict=True)):
            rows = along(rows, 1 + axis, resizing(*sides))
        how.append(f"patch {times(old.box)} resized to {times(new.box)}")
    if old.channels != new.channels:
        rows = rows[torch.arange(new.channels) % old.channels]
        how.append(f"{old.channels} channels to {new.channels}")
    made = from_boxes(rows)
    return made.reshape(-1, *given.shape[1:]).contiguous(), ", ".join(how)


def as_boxes(rows: Float[Tensor, "n w"], end: HasBox) -> Float[Tensor, "c *box w"]:
    """Rows in the order (box, channel), channels innermost, as a lattice for each channel."""
    shaped = rows.reshape(*end.box, end.channels, rows.shape[1])
    return shaped.movedim(-2, 0)


def from_boxes(boxes: Float[Tensor, "c *box w"]) -> Float[Tensor, "n w"]:
    return boxes.movedim(0, -2).reshape(-1, boxes.shape[-1])


def resizing(old: int, new: int) -> Float[Tensor, "new old"]:
    """The matrix that resizes an axis linearly, with a wider filter when it gets shorter."""
    lines = torch.eye(old)[None, None]  # every column a line with a single one
    sized = F.interpolate(lines, (new, old), mode="bilinear", antialias=True, align_corners=False)
    return sized[0, 0]


def along(tensor: Tensor, axis: int, matrix: Float[Tensor, "new old"]) -> Tensor:
    return F.linear(tensor.movedim(axis, -1), matrix).movedim(-1, axis)


def other_axes(old: HasBox, new: HasBox) -> str:
    return f"patches of {len(old.box)} axes cannot become ones of {len(new.box)}"


def times(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))


ADAPTED: dict[str, Callable[[Tensor, HasBox, HasBox], tuple[Tensor | None, str]]] = {
    "proj.weight": adapted_content,
    "pred.weight": adapted_answers,
    "pred.bias": adapted_answers,
}
TABLES = ("position.table", "decoder_position.table")


# --- what weights do not tell ---------------------------------------------------------------------


def differences(source: MaskedModel, target: MaskedModel, pairs: Mapping[str, str]) -> list[str]:
    notes = []
    for part in ("encoder", "decoder"):
        ours, theirs_ = (cast(Any, getattr(model, part)) for model in (target, source))
        mine, other = (getattr(each, "arguments", {}) for each in (ours, theirs_))
        notes += [
            f"{part}: {key} is {mine[key]} here and {other[key]} there"
            for key in ("eps", "places", "globals_at", "final_norm", "use_globals")
            if key in mine and key in other and mine[key] != other[key]
        ]
    for name, other in pairs.items():
        ours_, theirs__ = target.tokenizers[name], source.tokenizers[other]
        notes += [
            f"{name}: {key} is {getattr(ours_, key)} here and {getattr(theirs__, key)} there"
            for key in ("mean", "std")
            if getattr(ours_, key, None) != getattr(theirs__, key, None)
        ]
    return notes


# --- the same model over other tokenizers ---------------------------------------------------------


def rebuilt(model: MaskedModel, modalities: Mapping[str, Tokenizer]) -> MaskedModel:
    """The model's encoder, decoder and adapters, with new weights, over other tokenizers.

    A modality gets the adapter of its namesake, or of the only one where there is a single one on
    both sides; else the default one.
    """
    encoder, decoder = (fresh_part(part) for part in (model.encoder, model.decoder))
    given = cast(Mapping[str, nn.Module], model.resolved["adapters"])
    alone = len(given) == len(modalities) == 1
    adapters = {}
    for name, tokenizer in modalities.items():
        old = next(iter(given.values())) if alone else given.get(name)
        if old is not None:
            arguments = cast(dict[str, Any], old.arguments) | {"tokenizer": tokenizer}
            adapters[name] = type(old)(**arguments)
    slots = {name: n for name, n in cast(dict, model.resolved["max_tokens"]).items()}
    return MaskedModel(
        modalities,
        encoder,
        False if decoder is None else decoder,
        adapters,
        cast(Any, model.resolved["target"]),
        {name: n for name, n in slots.items() if name in modalities},
    )


def fresh_part(part: nn.Module | None) -> nn.Module | None:
    return None if part is None else type(part)(**cast(dict[str, Any], part.arguments))
