"""Other projects' weights in and out: find the layout, build the model, adapt it, write it back."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from multimask.checkpoints import weights
from multimask.checkpoints.adapt import Report, pour, rebuilt
from multimask.checkpoints.folder import load as load_own
from multimask.checkpoints.folder import write_whole
from multimask.checkpoints.layouts import LAYOUTS, Files, layout_of
from multimask.checkpoints.layouts.foreign import Foreign, State
from multimask.modality import Tokenizer
from multimask.model import MaskedModel

Tell = Callable[[str], None]


def load(
    path: str | Path,
    classes: Mapping[str, type] | None = None,
    *,
    layout: str | None = None,
    modalities: Mapping[str, Tokenizer] | None = None,
    tell: Tell | None = print,
    **facts: Any,
) -> MaskedModel:
    """A model from a folder that `model.save` wrote, or from weights of another project.

    It comes in eval mode, on the CPU. Weights of others are read from safetensors and torch files
    (never running what they hold) and from folders as Hugging Face writes them.

    Args:
        classes: for our own folders, names of classes that no installed package provides.
        layout: whose names the weights have (`multimask.checkpoints.layouts.LAYOUTS`); found by
            their keys when not given.
        modalities: tokenizers to adapt the weights to: another size, patch or number of channels.
            When not given the model is as it was.
        tell: called with the report of what matched, was adapted, was skipped; None for nobody.
        facts: what weights do not tell and their layout asks for: `heads=6`, `size=(160, 96)`.
    Raises: FileNotFoundError; ValueError (one sentence) for files that are damaged, unknown or
        hold more than weights; `multimask.plugins.UnknownPlugin` for classes nobody provides.
    """
    path = Path(path)
    if layout is None and is_own(path):
        if facts:
            raise ValueError(f"{path}: a model of ours is asked for no {', '.join(facts)}.")
        model = load_own(path, classes)
        if modalities is None:
            return model
        foreign, name = Foreign(model), str(path)
    else:
        foreign, name = read(path, layout, facts)
    return delivered(foreign, name, modalities, tell)


def delivered(
    foreign: Foreign, name: str, modalities: Mapping[str, Tokenizer] | None, tell: Tell | None
) -> MaskedModel:
    """The model as it came, or over these tokenizers; and what there is to tell."""
    if modalities is None:
        model = foreign.model
        report = Report(name, tuple(model.state_dict()), {}, (), aside(foreign))
    else:
        model = rebuilt(foreign.model, modalities)
        report = pour(foreign.model, model, name)
        report = replace(report, skipped={**report.skipped, **aside(foreign)})
    if tell is not None:
        tell(str(report))
    return model.eval()


def initialise(
    model: MaskedModel,
    path: str | Path,
    *,
    layout: str | None = None,
    classes: Mapping[str, type] | None = None,
    **facts: Any,
) -> Report:
    """Put weights of ours or of another project into a model that is there, in place, adapted as by
    `load`. Raises: what `load` raises, and ValueError for an encoder of another size."""
    path = Path(path)
    if layout is None and is_own(path):
        return pour(load_own(path, classes), model, str(path))
    foreign, name = read(path, layout, facts)
    report = pour(foreign.model, model, name)
    return replace(report, skipped={**report.skipped, **aside(foreign)})


def is_own(path: Path) -> bool:
    """Whether a folder is one of ours: its configuration says so, or says nothing (the sentence
    about what is wrong with it is then our own loader's)."""
    config = path / "config.json"
    if not config.is_file():
        return path.is_dir() and not any((path / name).is_file() for name in KNOWN)
    try:
        found = json.loads(config.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return True
    return not isinstance(found, dict) or "model_type" not in found


KNOWN = (*weights.WHOLE, *weights.INDEXED)


def aside(foreign: Foreign) -> dict[str, str]:
    return dict.fromkeys(foreign.unused, "not part of an encoder and decoder")


def read(path: Path, layout: str | None, facts: Mapping[str, Any]) -> tuple[Foreign, str]:
    """Weights of others as a model built to their sizes, and how to call them in a report."""
    found = weights.read(path)
    name = layout_of(found.state, path) if layout is None else layout
    if name not in LAYOUTS:
        raise ValueError(f"layout={name!r} is unknown; layouts are {', '.join(LAYOUTS)}.")
    chosen = LAYOUTS[name]
    state = {key: full(value) for key, value in found.state.items()}
    try:
        foreign = chosen.read(state, chosen.facts(found, path, facts))
    except (RuntimeError, KeyError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: does not fit the layout {name} ({reason}).") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    foreign = replace(foreign, unused=(*foreign.unused, *found.aside))
    return foreign, f"{path.name} ({name})"


def full(value: Tensor) -> Tensor:
    """Half precision as single: it is what ours is built in."""
    return value.float() if value.is_floating_point() else value


def export(model: MaskedModel, path: str | Path, layout: str, **facts: Any) -> None:
    """Write the model's weights in another project's names.

    `.safetensors` and `.bin` hold the bare entries, `.pth` and `.pt` a dict whose `model` they are;
    a path without a suffix is a folder as Hugging Face writes it, for layouts that have one.
    Raises: ValueError for a layout that cannot hold this model.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; layouts are {', '.join(LAYOUTS)}.")
    chosen, path = LAYOUTS[layout], Path(path)
    write_state(
        chosen.write(model, **facts), path, chosen.files(model) if not path.suffix else None
    )


def write_state(state: State, path: Path, files: Files | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        write_whole(path, to_bytes(dict(state), metadata={"format": "pt"}))
    elif path.suffix in (".pth", ".pt", ".bin"):
        stream = io.BytesIO()
        torch.save(dict(state) if path.suffix == ".bin" else {"model": dict(state)}, stream)
        write_whole(path, stream.getvalue())
    elif path.suffix:
        raise ValueError(
            f"{path}: export writes .safetensors, .pth, .pt and .bin files, and folders."
        )
    elif files is None:
        raise ValueError(f"{path}: this layout is a single file; name one, as {path}.safetensors.")
    else:
        path.mkdir(exist_ok=True)
        write_whole(path / "model.safetensors", to_bytes(dict(state), metadata={"format": "pt"}))
        for name, content in files.items():
            write_whole(path / name, json.dumps(content, indent=1).encode())
