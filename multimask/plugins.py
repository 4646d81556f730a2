"""Plug-ins: names at the doors, objects inside.

Entry-point groups `multimask.modalities`, `.methods`, `.readers` and `.parts`, loaded on first use;
what multimask brings itself comes through the same door. The second half turns an object built from
plug-ins into JSON (names and arguments, never import paths) and back, checking every argument
before anything is built.
"""

import functools
import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import PurePath
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from torch import nn

T = TypeVar("T", bound=type)

GROUPS = ("modalities", "methods", "readers", "parts")
MAX_NUMBER = 2**31  # no argument of a saved configuration may exceed it
MAX_ITEMS = 100_000


class UnknownPlugin(LookupError):
    """No installed distribution provides this name."""


def available(group: str) -> dict[str, EntryPoint]:
    """All plug-ins of a group by name. Raises ValueError when two distributions share a name."""
    if group not in GROUPS:
        raise ValueError(f"plug-in group {group!r} is unknown; groups are {', '.join(GROUPS)}.")
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"multimask.{group}"):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise ValueError(
                f"the name {point.name!r} of group multimask.{group} is claimed by both "
                f"{origin(other)} and {origin(point)}; uninstall one of them."
            )
    return dict(sorted(found.items()))


def load(group: str, name: str) -> Any:
    """The object behind a name. Raises UnknownPlugin with what is available."""
    found = available(group)
    if name not in found:
        raise UnknownPlugin(
            f"no {group} plug-in is named {name!r}; installed are {', '.join(found) or 'none'}. "
            f"Install the package that declares it in the entry-point group multimask.{group}."
        )
    return found[name].load()


def origin(point: EntryPoint) -> str:
    """Distribution and version that provide an entry point, as "name version"."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def remembers_arguments(cls: T) -> T:
    """Class decorator for modules: keep the constructor's arguments, so they can be saved."""
    build = cls.__init__
    signature = inspect.signature(build)

    @functools.wraps(build)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        build(self, *args, **kwargs)
        arguments = dict(list(bound.arguments.items())[1:])
        # building may have resolved shorthands into parts: these are what is kept then
        self.arguments = getattr(self, "resolved", arguments)

    cls.__init__ = init  # type: ignore[misc]
    return cls


# --- configurations -------------------------------------------------------------------------------


def to_config(value: Any, used: dict[str, str] | None = None) -> Any:
    """JSON for an argument: numbers, strings, lists, mappings, and objects of plug-in classes.

    `used` collects which distribution provided each name. Raises ValueError for what no plug-in
    name stands for.
    """
    used = {} if used is None else used
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [to_config(item, used) for item in value]
    if isinstance(value, Mapping):
        return {"map": {str(key): to_config(item, used) for key, item in value.items()}}
    if isinstance(value, type):
        return {"name": name_of(value, used)}
    if is_dataclass(value):
        arguments = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
    elif isinstance(value, nn.Module) and hasattr(value, "arguments"):
        arguments = cast(Mapping[str, Any], value.arguments)
    else:
        raise ValueError(
            f"{type(value).__name__} cannot be saved by name: it must be a frozen dataclass or "
            "an nn.Module under @remembers_arguments."
        )
    name = name_of(type(value), used)
    config = {key: to_config(item, used) for key, item in arguments.items()}
    return {"name": name, "arguments": config}


def name_of(cls: type, used: dict[str, str]) -> str:
    """The plug-in name of a class; a class without one is named by itself, and loading it then
    needs `classes={name: cls}`."""
    value = f"{cls.__module__}:{cls.__qualname__}"
    for group in ("modalities", "parts", "readers"):
        for point in available(group).values():
            if point.value == value:
                used[f"{group}/{point.name}"] = origin(point)
                return f"{group}/{point.name}"
    used[cls.__qualname__] = "no distribution: pass classes= when loading"
    return cls.__qualname__


def from_config(config: Any, classes: Mapping[str, type] | None = None) -> Any:
    """Build what `to_config` described.

    A name resolves to `classes[name]`, else an installed plug-in. Raises UnknownPlugin for a name
    nobody provides and ValueError for arguments that the class does not take or that are too large.
    """
    classes = classes or {}
    if isinstance(config, bool | str) or config is None:
        return config
    if isinstance(config, int | float):
        if not math.isfinite(config) or abs(config) > MAX_NUMBER:
            raise ValueError(f"configuration: {config} is no sensible argument.")
        return config
    if isinstance(config, list):
        check_length(config)
        return tuple(from_config(item, classes) for item in config)
    if not isinstance(config, dict):
        raise ValueError(f"configuration: {type(config).__name__} is not JSON.")
    check_length(config)
    if set(config) == {"map"} and isinstance(config["map"], dict):
        check_length(config["map"])
        return {key: from_config(item, classes) for key, item in config["map"].items()}
    if "name" not in config or set(config) - {"name", "arguments"}:
        raise ValueError(
            f"configuration: expected a name and arguments, found the keys {sorted(config)[:5]}."
        )
    cls = resolve(config["name"], classes)
    if "arguments" not in config:
        return cls
    if not isinstance(config["arguments"], dict):
        raise ValueError(f"configuration: the arguments of {config['name']!r} must be an object.")
    arguments = {key: from_config(item, classes) for key, item in config["arguments"].items()}
    check_arguments(config["name"], cls, arguments)
    return cls(**arguments)


def resolve(name: Any, classes: Mapping[str, type]) -> Any:
    if not isinstance(name, str):
        raise ValueError(f"configuration: a class is named by a string, not {name!r}.")
    if name in classes:
        return classes[name]
    group, slash, short = name.partition("/")
    if slash and group in GROUPS and short in available(group):
        return load(group, short)
    raise UnknownPlugin(
        f"configuration: nobody here provides {name!r}. Install the package that brings it, or "
        f"pass classes={{{name!r}: TheClass}} when loading."
    )


def check_length(items: Any) -> None:
    if len(items) > MAX_ITEMS:
        raise ValueError(f"configuration: a list of {len(items)} entries is too long.")


def check_arguments(name: str, cls: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Names, presence and plain types of arguments against the class's own signature."""
    parameters = inspect.signature(cls).parameters
    unknown = sorted(set(arguments) - set(parameters))
    if unknown:
        raise ValueError(
            f"configuration: {name} takes no {', '.join(unknown)}; it takes "
            f"{', '.join(parameters)}. It may have been saved by another version."
        )
    for key, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if key not in arguments:
            if parameter.default is parameter.empty:
                raise ValueError(f"configuration: {name} lacks its argument {key!r}.")
        elif not fits(arguments[key], parameter.annotation):
            raise ValueError(
                f"configuration: {name} takes {key} as {parameter.annotation}, "
                f"not {arguments[key]!r}."
            )


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value agrees with an annotation as far as plain types and Literals tell."""
    origin_type = get_origin(annotation)
    if origin_type is Literal:
        return value in get_args(annotation)
    if origin_type in (Union, types.UnionType):
        return any(fits(value, choice) for choice in get_args(annotation))
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (str, bool):
        return isinstance(value, annotation)
    if origin_type is tuple:
        inner = get_args(annotation)
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(fits, value, inner))
    if origin_type in (dict, Mapping):
        return isinstance(value, dict)
    return value is not None or annotation in (Any, inspect.Parameter.empty)
