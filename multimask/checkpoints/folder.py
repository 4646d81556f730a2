"""A model as a folder: weights in safetensors, how to build it as JSON with plug-in names."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from multimask.model import MaskedModel
from multimask.plugins import from_config, to_config

FORMAT = 1
MAX_CONFIG_BYTES = 8_000_000


def save(model: MaskedModel, folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json` into a folder, each whole or not at all.

    Raises: ValueError when some part has no way to be named (see `multimask.plugins.to_config`).
    """
    folder = Path(folder)
    used: dict[str, str] = {}
    config = {
        "format": FORMAT,
        "multimask": version("multimask"),
        "torch": torch.__version__,
        "model": to_config(model, used),
        "provided_by": used,
    }
    if model.seen is not None:
        config["seen"] = model.seen
    weights = {key: value.detach().cpu().contiguous() for key, value in state_of(model).items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.safetensors", to_bytes(weights, metadata={"format": "pt"}))
    write_whole(folder / "config.json", json.dumps(config, indent=1).encode())


def load(folder: str | Path, classes: Mapping[str, type] | None = None) -> MaskedModel:
    """The model that `model.save(folder)` wrote, in eval mode on the CPU.

    `classes` resolves names of classes that no installed package provides.
    Raises: FileNotFoundError for a folder that is not a model; ValueError (one sentence) for
    damaged or foreign files; `multimask.plugins.UnknownPlugin` for classes nobody provides.
    """
    folder = Path(folder)
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder}: expected a model folder with config.json and model.safetensors, "
                f"found no {file.name}."
            )
    config, seen = read_config(config_file)
    with at_most(count_of(weights_file)):
        expected = shapes_of(config, classes, config_file)
    weights = read_weights(weights_file, expected)
    model = build(config, classes, config_file)
    model.load_state_dict(weights)
    model.seen = seen
    return model.eval()


def read_config(file: Path) -> tuple[Any, tuple[tuple[str, ...], ...] | None]:
    """How to build the model, and which sets of modalities it read in training."""
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{file}: larger than any configuration of ours; it is not one.")
    try:
        config = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: expected JSON, but it cannot be read as such.") from error
    if not isinstance(config, dict) or "model" not in config or "format" not in config:
        raise ValueError(
            f"{file}: expected a configuration written by multimask (keys format and model); "
            "weights of other projects need layout=..."
        )
    if config["format"] != FORMAT:
        raise ValueError(
            f"{file}: written in format {config['format']!r}, this version reads {FORMAT}; "
            "install a newer multimask."
        )
    return config["model"], subsets_of(config.get("seen"), file)


def subsets_of(seen: Any, file: Path) -> tuple[tuple[str, ...], ...] | None:
    if seen is None:
        return None
    if not isinstance(seen, list) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in seen
    ):
        raise ValueError(f"{file}: expected lists of modalities under 'seen', found {seen!r:.80}.")
    return tuple(map(tuple, seen))


def build(config: Any, classes: Mapping[str, type] | None, file: Path) -> MaskedModel:
    try:
        model = from_config(config, classes)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except TypeError as error:
        raise ValueError(f"{file}: an argument has the wrong type ({error}).") from error
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file}: describes what cannot be built ({reason}).") from error
    if not isinstance(model, MaskedModel):
        raise ValueError(f"{file}: describes a {type(model).__name__}, expected a MaskedModel.")
    return model


def shapes_of(config: Any, classes: Mapping[str, type] | None, file: Path) -> dict[str, Tensor]:
    """What the weights must look like, without allocating them."""
    try:
        with torch.device("meta"):
            return state_of(build(config, classes, file))
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{file}: asks for weights of a size that cannot be.") from error


def count_of(file: Path) -> int:
    """How many weights a file holds."""
    try:
        with safe_open(file, framework="pt") as opened:
            return len(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: not a whole safetensors file; it may be cut short.") from error


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Stop building once there are far more weights than were saved: an absurd depth would fill
    the memory with modules, even with nothing in them."""
    made = 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal made
        made += 1
        if made > 2 * count + 100:  # building may put some in the place of others
            raise ValueError(f"describes more weights than the {count} that were saved.")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def read_weights(file: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights, after their names and shapes were compared with what the model needs."""
    try:
        with safe_open(file, framework="pt") as opened:
            found = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            compare(file, found, {key: tuple(value.shape) for key, value in expected.items()})
            weights = {key: opened.get_tensor(key) for key in found}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: not a whole safetensors file; it may be cut short.") from error
    for key, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{file}: {key} holds NaN or infinite numbers.")
    return weights


def compare(
    file: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    missing, surplus = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or surplus:
        told = [f"{len(missing)} missing (first {missing[0]})"] if missing else []
        told += [f"{len(surplus)} surplus (first {surplus[0]})"] if surplus else []
        raise ValueError(f"{file}: weights and config.json disagree: {', '.join(told)}.")
    for key, shape in wanted.items():
        if found[key] != shape:
            raise ValueError(f"{file}: {key} has shape {found[key]}, config.json says {shape}.")


def state_of(model: MaskedModel) -> dict[str, Tensor]:
    return cast(dict[str, Tensor], model.state_dict())


def write_whole(file: Path, data: bytes) -> None:
    """Write under a temporary name, flush to disk, rename: a reader sees all or nothing."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
