"""What a reader gave for one sample, as arrays by name and the rest as JSON; and back.

A value is a tensor or array, a dict of such and of plain facts, or a record (a dataclass that has a
plug-in name: names are kept, never import paths).
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from multimask import plugins

ALONE = "data"  # the name of the array where the value is nothing but one
DICT = "dict"

Arrays = dict[str, Shaped[np.ndarray, "..."]]


def taken_apart(value: Any) -> tuple[str | None, Arrays, dict[str, Any]]:
    """(what it was: None for an array, "dict", or a record's plug-in name; arrays; facts).

    Raises: ValueError for what cannot be kept.
    """
    if isinstance(value, Tensor | np.ndarray):
        return None, {ALONE: as_array(value)}, {}
    if isinstance(value, Mapping):
        record, items = DICT, dict(value)
    elif is_dataclass(value) and not isinstance(value, type):
        record = plugins.name_of(type(value), {})
        items = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        if "/" not in record:
            raise ValueError(
                f"a {record} cannot be packed: it has no plug-in name; declare it in the "
                "entry-point group multimask.parts."
            )
    else:
        raise ValueError(
            f"a {type(value).__name__} cannot be packed, only tensors, dicts of tensors and facts, "
            "and records."
        )
    for name in items:
        if not isinstance(name, str) or name.startswith("_") or "/" in name:
            raise ValueError(f"a value with the key {name!r} cannot be packed; use a plain name.")
    arrays = {k: as_array(v) for k, v in items.items() if isinstance(v, Tensor | np.ndarray)}
    return record, arrays, {name: v for name, v in items.items() if name not in arrays}


def put_together(record: str | None, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    """The value again."""
    if record is None:
        return arrays[ALONE]
    if record == DICT:
        return {**arrays, **facts}
    return class_of(record)(**arrays, **facts)


@functools.cache  # looking among installed packages takes longer than reading the sample
def class_of(record: str) -> Any:
    """The class of a record, by its plug-in name."""
    return plugins.resolve(record, {})


def as_array(value: Any) -> Shaped[np.ndarray, "..."]:
    if isinstance(value, Tensor):
        if value.dtype == torch.bfloat16:
            raise ValueError("bfloat16 cannot be packed: zarr has no such number; use float32.")
        return value.numpy(force=True)
    if value.dtype.kind not in "biuf":
        raise ValueError(f"an array of {value.dtype} cannot be packed, only of numbers.")
    return value


def facts_text(facts: Mapping[str, Any]) -> bytes:
    return json.dumps({name: tagged(value) for name, value in facts.items()}).encode()


def facts_of(text: Any) -> dict[str, Any]:
    return {name: untagged(value) for name, value in json.loads(bytes(text)).items()}


def tagged(value: Any) -> Any:
    """JSON that remembers which lists were tuples.

    >>> untagged(json.loads(json.dumps(tagged((1, ["a", None])))))
    (1, ['a', None])
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [tagged(item) for item in value]}
    if isinstance(value, list):
        return [tagged(item) for item in value]
    if isinstance(value, Mapping):
        return {"map": {str(name): tagged(item) for name, item in value.items()}}
    raise ValueError(f"a {type(value).__name__} cannot be packed as a fact: {value!r}.")


def untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [untagged(item) for item in value]
    if isinstance(value, dict) and "tuple" in value:
        return tuple(untagged(item) for item in value["tuple"])
    if isinstance(value, dict):
        return {name: untagged(item) for name, item in value["map"].items()}
    return value
