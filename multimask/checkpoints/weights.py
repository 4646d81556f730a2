"""Weights from any file, without running what it holds: safetensors, or torch files by their
restricted reader.

A torch file is looked at before it is read: its records must be stored as they are (torch packs
nothing; a packed record is how a small file becomes a large one), and afterwards: a tensor must
not claim more numbers than its file brought.
"""

import argparse
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = ("model", "state_dict", "module", "model_state_dict", "base_model", "net")
PREFIXES = ("module.", "_orig_mod.")
INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
MAX_PICKLE = 64 << 20  # bytes that describe, without the numbers


@dataclass(frozen=True)
class Found:
    """Weights by their own names. config: the JSON beside them. aside: what else the file held."""

    state: dict[str, Tensor]
    files: tuple[Path, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    aside: tuple[str, ...] = ()


def read(path: str | Path) -> Found:
    """The weights of a file, or of a folder as Hugging Face writes it.

    Raises: FileNotFoundError; ValueError (one sentence) for what is no such file, is damaged, holds
    code, unpacks into more than it is, or has numbers that are NaN or infinite.
    """
    path = Path(path)
    files = parts_of(path)
    state: dict[str, Tensor] = {}
    aside: list[str] = []
    for file in files:
        found, others = read_file(file)
        state |= found
        aside += others
    for key, value in state.items():
        check_numbers(path, key, value)
    if not state:
        raise ValueError(f"{path}: holds no weights.")
    config = {name: read_json(path / name) for name in CONFIGS if (path / name).is_file()}
    return Found(state, tuple(files), config, tuple(aside))


CONFIGS = ("config.json", "preprocessor_config.json")


def parts_of(path: Path) -> list[Path]:
    """The file itself, or a folder's file or files."""
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ValueError(
                f"{path}: expected weights, a file ending in {', '.join(SUFFIXES)}, or a folder."
            )
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such file or folder of weights.")
    for name in WHOLE:
        if (path / name).is_file():
            return [path / name]
    for name in INDEXED:
        if (path / name).is_file():
            return indexed(path, read_json(path / name))
    raise FileNotFoundError(f"{path}: expected one of {', '.join((*WHOLE, *INDEXED))} in it.")


def indexed(folder: Path, index: Any) -> list[Path]:
    """The files that an index names, which must lie in its own folder."""
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{folder}: its index has no weight_map.")
    files = []
    for name in sorted({str(value) for value in names.values()}):
        if Path(name).name != name:
            raise ValueError(f"{folder}: its index names {name!r}, which is not in the folder.")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: its index names {name}, which is missing.")
        files.append(folder / name)
    return files


def read_file(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                keys = opened.keys()
                return {plain(key): opened.get_tensor(key) for key in keys}, []
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file}: not a whole safetensors file; it may be cut short."
            ) from error
    check_packing(file)
    try:
        # a namespace of options, which many training programs save, is only data
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file}: holds more than weights (objects that only running its code would make), and "
            "is not read; save the state dict alone, best as safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, MemoryError) as error:
        raise ValueError(f"{file}: not a whole torch file; it may be cut short.") from error
    return unwrapped(file, loaded)


def check_packing(file: Path) -> None:
    """Raises ValueError for a zip whose records are packed, or more than the file is long."""
    if not zipfile.is_zipfile(file):
        return  # torch's older format: one stream, no longer than the file
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
    packed = [each.filename for each in records if each.compress_type != zipfile.ZIP_STORED]
    total = sum(each.file_size for each in records)
    if packed or total > file.stat().st_size:
        raise ValueError(
            f"{file}: unpacks into {total:,} bytes, more than its own {file.stat().st_size:,}; "
            "torch never writes such files, and it is not read."
        )
    described = sum(each.file_size for each in records if each.filename.endswith(".pkl"))
    if described > MAX_PICKLE:
        raise ValueError(f"{file}: needs {described:,} bytes to describe its weights; not read.")


def unwrapped(file: Path, loaded: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict, also from within a training checkpoint, and the names of what lay beside."""
    aside: list[str] = []
    while isinstance(loaded, Mapping) and not holds_tensors(loaded):
        inner = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        aside += [str(key) for key in loaded if key != inner]
        loaded = loaded[inner]
    if not isinstance(loaded, Mapping) or not holds_tensors(loaded):
        raise ValueError(f"{file}: expected a state dict (names to tensors), found none.")
    state = {plain(str(k)): v for k, v in loaded.items() if isinstance(v, Tensor)}
    aside += [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    for key, value in state.items():
        if value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{file}: {key} is no plain tensor.")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"{file}: {key} claims {value.numel():,} numbers that it does not hold."
            )
    return state, aside


def holds_tensors(loaded: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in loaded.values())


def plain(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def check_numbers(path: Path, key: str, value: Tensor) -> None:
    if value.is_floating_point() and not value.isfinite().all():
        raise ValueError(f"{path}: {key} holds NaN or infinite numbers.")


def read_json(file: Path) -> Any:
    if file.stat().st_size > 8_000_000:
        raise ValueError(f"{file}: larger than any configuration; it is none.")
    try:
        return json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: expected JSON, but it cannot be read as such.") from error
