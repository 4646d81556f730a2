"""Weights of other projects, by name: one file a project, plain functions between their names and
ours. `matches(keys)` tells a project's files; `read(state, facts)` builds a model of ours to their
sizes; `write(model)` gives their names back. Older files also say `to_ours(state)` and
`to_theirs(state)`, which rename a MaskedModel's state.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from multimask.checkpoints.layouts import (
    bm_mae,
    hf_vitmae,
    mae,
    monai_mae,
    monai_vit,
    multimae,
)
from multimask.checkpoints.layouts.foreign import Foreign, State
from multimask.checkpoints.weights import Found
from multimask.model import MaskedModel

Files = Mapping[str, Mapping[str, Any]]  # JSON files of a folder, by name


def no_files(model: MaskedModel) -> Files | None:
    """A layout that is a single file."""
    return None


@dataclass(frozen=True)
class Layout:
    """facts: what the weights do not tell, from a configuration beside them and from the caller.
    files: what stands beside the weights in a folder; None where there are no such folders."""

    matches: Callable[[Collection[str]], bool]
    facts: Callable[[Found, Path, Mapping[str, Any]], Any]
    read: Callable[[State, Any], Foreign]
    write: Callable[..., State]
    files: Callable[[MaskedModel], Files | None] = no_files


def given(cls: type, values: Mapping[str, Any], said: Mapping[str, Any]) -> Any:
    """A layout's facts: what was found, and over it what the caller says."""
    known = [field.name for field in fields(cls)]
    unknown = sorted(set(said) - set(known))
    if unknown:
        raise ValueError(f"takes no {', '.join(unknown)}; it takes {', '.join(known)}.")
    return cls(**{**values, **said})


def mae_facts(found: Found, path: Path, said: Mapping[str, Any]) -> mae.Facts:
    return given(mae.Facts, {"normalise": "visualize" not in path.name}, said)


def plain_facts(found: Found, path: Path, said: Mapping[str, Any]) -> mae.Facts:
    return given(mae.Facts, {"normalise": False}, said)


def trained_facts(found: Found, path: Path, said: Mapping[str, Any]) -> mae.Facts:
    return given(mae.Facts, {"trained_table": True}, said)


def hf_facts(found: Found, path: Path, said: Mapping[str, Any]) -> mae.Facts:
    return given(mae.Facts, hf_vitmae.facts_of(found.config), said)


def volume_facts(found: Found, path: Path, said: Mapping[str, Any]) -> monai_vit.Facts:
    return given(monai_vit.Facts, {}, said)


def monai_mae_facts(found: Found, path: Path, said: Mapping[str, Any]) -> monai_mae.Facts:
    return given(monai_mae.Facts, {}, said)


def bm_mae_facts(found: Found, path: Path, said: Mapping[str, Any]) -> bm_mae.Facts:
    return given(bm_mae.Facts, {}, said)


def multimae_facts(found: Found, path: Path, said: Mapping[str, Any]) -> multimae.Facts:
    return given(multimae.Facts, {}, said)


LAYOUTS: dict[str, Layout] = {
    "mae": Layout(mae.matches, mae_facts, mae.read, mae.write),
    "mae-visualize": Layout(lambda keys: False, plain_facts, mae.read, mae.write),
    "mae-encoder": Layout(
        lambda keys: False, mae_facts, mae.read, lambda model: mae.write(model, decoder=False)
    ),
    "timm": Layout(
        mae.matches_timm, trained_facts, mae.read, lambda model: mae.write(model, decoder=False)
    ),
    "hf-vitmae": Layout(
        hf_vitmae.matches, hf_facts, hf_vitmae.read, hf_vitmae.write, hf_vitmae.files
    ),
    "hf-vitmae-disk": Layout(
        lambda keys: False,
        hf_facts,
        hf_vitmae.read,
        lambda model: hf_vitmae.write(model, "disk"),
        hf_vitmae.files,
    ),
    "hf-vitmae-memory": Layout(
        lambda keys: False, hf_facts, hf_vitmae.read, lambda model: hf_vitmae.write(model, "memory")
    ),
    "monai-mae": Layout(monai_mae.matches, monai_mae_facts, monai_mae.read, monai_mae.write),
    "monai-vit": Layout(monai_vit.matches, volume_facts, monai_vit.read, monai_vit.write),
    "bm-mae": Layout(bm_mae.matches, bm_mae_facts, bm_mae.read, bm_mae.write),
    "multimae": Layout(multimae.matches, multimae_facts, multimae.read, multimae.write),
}


def layout_of(keys: Collection[str], path: Path) -> str:
    """The layout whose keys these are. Raises ValueError where there is none."""
    for name, layout in LAYOUTS.items():
        if layout.matches(keys):
            return name
    first = ", ".join(sorted(keys)[:3])
    raise ValueError(
        f"{path}: its {len(keys)} entries ({first} ...) are those of no known layout; say which "
        f"they should be, layout=..., to hear what is missing. Layouts are {', '.join(LAYOUTS)}."
    )
