"""Typed command-line flags generated from one frozen dataclass.

A field `epochs: Annotated[int, "passes over the data"] = 8` becomes `--epochs N`. `--config
file.yaml` gives values that flags then override. A user's mistake is one sentence and exit
status 2; MULTIMASK_TRACEBACK=1 shows where it was raised.
"""

import argparse
import os
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

C = TypeVar("C")
Size = int | tuple[int, ...]  # written 64 or 96x160

# what a user can get wrong, or a disk; anything else is a bug of ours and keeps its traceback
MISTAKES = (ValueError, LookupError, OSError, ImportError)


def from_command_line(cls: type[C], argv: Sequence[str] | None = None, prog: str = "") -> C:
    """An instance of the dataclass from flags and an optional `--config` file.

    Its docstring's first line describes the program. Exits with 2 on a wrong flag or value.
    """
    arguments = parser(cls, prog)
    given = vars(arguments.parse_args(argv))
    file = given.pop("config")
    values = read_config(Path(file), cls, arguments) if file else {}
    values |= {name: value for name, value in given.items() if value is not None}
    required = [f.name for f in fields(as_dataclass(cls)) if is_required(f)]
    missing = [name for name in required if name not in values]
    if missing:
        arguments.error(f"the following flags are needed: {', '.join(map(flag, missing))}")
    try:
        return cls(**values)
    except ValueError as error:
        arguments.error(str(error))


def parser(cls: type, prog: str = "") -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=prog or None, description=(cls.__doc__ or "").strip(), allow_abbrev=False
    )
    made.add_argument("--config", metavar="FILE", help="YAML file with values for the flags below")
    hints = get_type_hints(cls, include_extras=True)
    for f in fields(as_dataclass(cls)):
        kind, help_text = unwrapped(hints[f.name])
        default = "" if is_required(f) else f" (default: {shown(default_of(f), kind)})"
        text = (help_text + default).replace("%", "%%")
        names = [flag(f.name)]
        if kind is bool:
            action = argparse.BooleanOptionalAction
            made.add_argument(*names, action=action, default=None, help=text)
            continue
        choices = [str(c) for c in get_args(kind)] if get_origin(kind) is Literal else None
        metavar = None if choices else placeholder(kind)
        made.add_argument(
            *names, type=reader(kind), default=None, help=text, metavar=metavar, choices=choices
        )
    return made


def run(main: Callable[[C], Any], cls: type[C], argv: Sequence[str] | None = None) -> int:
    """Parse, call, and turn a user's mistake into one sentence and exit status 2."""
    config = from_command_line(cls, argv)
    return guarded(lambda: main(config))


def guarded(call: Callable[[], Any], name: str = "") -> int:
    """0, or 2 with one sentence on standard error; an interrupt is 130."""
    try:
        call()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except MISTAKES as error:
        if os.environ.get("MULTIMASK_TRACEBACK"):
            raise
        print(f"{name or Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 2
    return 0


def to_yaml(config: Any) -> str:
    """The resolved configuration, readable by `--config` again."""
    return yaml.safe_dump(
        {name: plain(value) for name, value in asdict(config).items()}, sort_keys=False
    )


def read_config(file: Path, cls: type, arguments: argparse.ArgumentParser) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text())
    except OSError as error:
        arguments.error(f"--config {file}: cannot be read ({error.strerror})")
    except (yaml.YAMLError, UnicodeDecodeError):
        arguments.error(f"--config {file}: is not YAML")
    if not isinstance(loaded, dict):
        arguments.error(f"--config {file}: expected names and values, found none")
    hints = get_type_hints(cls, include_extras=True)
    unknown = sorted(str(name) for name in set(loaded) - set(hints))
    if unknown:
        arguments.error(f"--config {file}: unknown {', '.join(unknown)}")
    values = {}
    for name, value in loaded.items():
        kind, _ = unwrapped(hints[name])
        try:
            values[name] = from_plain(value, kind)
        except (ValueError, argparse.ArgumentTypeError) as error:
            arguments.error(f"--config {file}: {name}={value!r}: {error}")
    return values


def from_plain(value: Any, kind: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list):
        return tuple(value)
    read = reader(kind)(str(value))
    if get_origin(kind) is Literal and read not in get_args(kind):
        raise ValueError(f"must be one of {', '.join(map(str, get_args(kind)))}")
    return read


def plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def unwrapped(hint: Any) -> tuple[Any, str]:
    """The type without Annotated and Optional, and the help text."""
    text = ""
    if get_origin(hint) is Annotated:
        hint, text = get_args(hint)[:2]
    if get_origin(hint) in (Union, types.UnionType):
        choices = [choice for choice in get_args(hint) if choice is not type(None)]
        # Size is itself a union: int | tuple[int, ...]
        sized = any(get_origin(choice) is tuple for choice in choices)
        hint = Size if sized else choices[0]
    return hint, text


def reader(kind: Any) -> Callable[[str], Any]:
    if kind == Size:
        return size
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return lambda text: tuple(inner(part) for part in text.split(","))
    if get_origin(kind) is Literal:
        return type(get_args(kind)[0])
    return kind


def size(text: str) -> Size:
    """`64`, or `96x160` for height x width.

    >>> size("64"), size("96x160")
    (64, (96, 160))
    """
    try:
        numbers = tuple(int(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 64 or 96x160") from None
    return numbers[0] if len(numbers) == 1 else numbers


def placeholder(kind: Any) -> str:
    if kind == Size:
        return "N|HxW"
    if get_origin(kind) is tuple:
        return "A,B,..."
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def shown(value: Any, kind: Any = None) -> str:
    if isinstance(value, tuple):
        return ("x" if kind == Size else ",").join(map(str, value))
    return "none" if value is None else str(value)


def is_required(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def default_of(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def as_dataclass(cls: type) -> Any:
    if not is_dataclass(cls):
        raise TypeError(f"{cls.__name__} must be a dataclass.")
    return cls
