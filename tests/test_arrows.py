"""Arrows point one way, and the core never spells a kind: read from the source, file by file."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

KINDS = {"image", "video", "points", "volume", "mri", "skeleton", "spectral"}
KINDS |= {f"{kind}s" for kind in KINDS}
FOREIGN = ("entry points", "pil image")  # names of others that only sound like a kind
MAY_SPELL = {"methods", "checkpoints", "cli", "testing"}
LINKS = {"modalities", "datasets"}

# All that `import multimask` may load beside the standard library and what torch loads.
LIGHT = {"multimask", "einops", "jaxtyping", "numpy", "safetensors", "wadler_lindig", "yaml"}
HEAVY = {"decord", "lightning", "matplotlib", "monai", "pytorch_lightning", "sklearn"}
HEAVY |= {"torch_geometric", "transformers", "zarr"}


# --- no kind is spelled ---------------------------------------------------------------------------


def test_the_core_never_spells_a_kind() -> None:
    spelled = [
        f"{file.relative_to(ROOT)}:{line}: {text!r}"
        for file in core_files()
        if not MAY_SPELL & set(file.relative_to(ROOT / "multimask").parts)
        for line, text in [(0, file.stem), *spellings(file.read_text())]
        if kinds_in(text)
    ]
    assert not spelled, "\n".join(["a kind is spelled in the core:", *spelled])


@pytest.mark.parametrize(
    "source",
    [
        'if name == "image": pass',
        "def load_images(): ...",
        "class VideoReader: ...",
        "reader.read_MRIs()",
        "f(volume=1)",
        "lambda skeleton: 0",
        "from library import Image",
        "import library.spectral",
        "import numpy as points",
        'f"{n} points"',
        "match x:\n    case {'a': video}: pass",
        'def f():\n    "Docstring."\n    return b"volumes"',
    ],
)
def test_a_planted_kind_is_found(source: str) -> None:
    assert any(kinds_in(text) for _, text in spellings(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""Pixels of an image."""',
        "class A:\n    '''A video.'''\n    def f(self):\n        'A volume.'",
        "a = 1\n'a says which image'",
        "imagine = point = pointless = spectrum = 'imagery'  # video",
        "from importlib.metadata import EntryPoints, entry_points",
    ],
)
def test_docstrings_comments_and_other_words_are_free(source: str) -> None:
    assert not any(kinds_in(text) for _, text in spellings(source))


def core_files() -> list[Path]:
    """The files of multimask/, without those behind the two links."""
    files = sorted((ROOT / "multimask").rglob("*.py"))
    return [f for f in files if f.relative_to(ROOT / "multimask").parts[0] not in LINKS]


def spellings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every name and string of a program, docstrings left out."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        for _, field in ast.iter_fields(node):
            for text in field if isinstance(field, list) else [field]:
                if isinstance(text, bytes):
                    yield getattr(node, "lineno", 0), text.decode("latin-1")
                elif isinstance(text, str):
                    yield getattr(node, "lineno", 0), text


def kinds_in(text: str) -> set[str]:
    """Kinds among the words of a text; names are split at underscores and capitals.

    >>> sorted(kinds_in("load_MRIVolume from RGBImages, 3 pointers"))
    ['images', 'mri', 'volume']
    """
    words = re.findall(r"[A-Z]{2,}s?(?![a-z])|[A-Z]?[a-z]+", text)
    plain = " ".join(words).lower()
    for phrase in FOREIGN:
        plain = re.sub(rf"\b{phrase}\b", "", plain)
    return KINDS & set(plain.split())


# --- imports --------------------------------------------------------------------------------------


def test_the_core_imports_neither_folder() -> None:
    files = [f for f in core_files() if f.relative_to(ROOT / "multimask").parts[0] != "cli"]
    assert not strays(files, forbidden_in_core)


def test_modalities_import_only_the_core() -> None:
    assert not strays((ROOT / "modalities").rglob("*.py"), forbidden_in_modalities)


def test_datasets_import_only_the_records_and_names() -> None:
    assert not strays((ROOT / "datasets").rglob("*.py"), forbidden_in_datasets)


def forbidden_in_core(module: str) -> bool:
    return within(
        module,
        *("multimask.modalities", "multimask.datasets", "multimask.cli"),
        *("modalities", "datasets", "experiments", "tests"),  # as they look from the root
    )


def forbidden_in_modalities(module: str) -> bool:
    outside = ("multimask.datasets", "multimask.cli", "modalities", "experiments", "tests")
    return within(module, *outside)


def forbidden_in_datasets(module: str) -> bool:
    ours = within(module, "multimask", "modalities", "experiments", "tests")
    # plugins: a store names its readers, as a checkpoint its parts
    allowed = ("multimask.tokens", "multimask.plugins", "multimask.datasets")
    return ours and not within(module, *allowed)


def within(module: str, *parents: str) -> bool:
    return any(f"{module}.".startswith(f"{parent}.") for parent in parents)


def strays(files: Iterable[Path], forbidden: Callable[[str], bool]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{line}: imports {module}"
        for file in sorted(files)
        for line, module in imports(file.read_text(), package_of(file))
        if forbidden(module)
    ]


def package_of(file: Path) -> str:
    """The package that a file's relative imports start from."""
    folder = ".".join(file.parent.relative_to(ROOT).parts)
    return folder if folder.startswith("multimask") else f"multimask.{folder}"


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of all that a program in this package imports.

    `from a import b` counts as a.b. Also found: the strings that `import_module` and the like are
    called with, and any string that is a path into one of the two folders. (The folders' bare
    names are also those of plug-in groups, so as plain strings they are free.)
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute("." * node.level + (node.module or ""), package)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in IMPORTERS and node.args:
            named = [part.value for part in node.args if isinstance(part, ast.Constant)]
            names = [text for text in named if isinstance(text, str)]
            if names:
                yield node.lineno, absolute(names[0], names[1] if len(names) > 1 else package)
        elif isinstance(node, ast.Constant) and PATH_INSIDE.fullmatch(str(node.value)):
            yield node.lineno, str(node.value).replace(":", ".").strip(".")


IMPORTERS = {"import_module", "__import__", "find_spec", "resolve_name", "run_module"}
PATH_INSIDE = re.compile(r"multimask\.(modalities|datasets)\.[\w.:]*")


def called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def absolute(name: str, package: str) -> str:
    """`..a` in package x.y.z is x.y.a."""
    module = name.lstrip(".")
    level = len(name) - len(module)
    if not level:
        return module
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - level + 1], *([module] if module else [])])


@pytest.mark.parametrize(
    "source",
    [
        "import multimask.modalities.points",
        "import numpy, multimask.datasets as d",
        "from multimask import datasets",
        "from multimask.modalities import image",
        "from multimask.modalities.image import ImagePatches",
        "from .. import modalities",
        "from ..datasets.table import Table",
        "def f():\n    from ..modalities.image import ImagePatches",
        "if TYPE_CHECKING:\n    from multimask.datasets.table import Table",
        'importlib.import_module("multimask.modalities")',
        'import_module("..datasets", "multimask.nn")',
        'import_module("..datasets", __package__)',
        '__import__("multimask.datasets.table")',
        'where = "multimask.modalities.image:ImagePatches"',
        'import_module(f"multimask.modalities.{kind}")',
        "from datasets.table import Table",
        "from multimask.cli import main",
    ],
)
def test_a_planted_arrow_out_of_the_core_is_found(source: str) -> None:
    assert any(forbidden_in_core(module) for _, module in imports(source, "multimask.nn"))


@pytest.mark.parametrize(
    "source",
    [
        "import torch, multimask.tokens",
        "from .blocks import Block",
        "from .. import tokens",
        "from . import modalities_of",
        'entry_points(group="multimask.modalities")',
        'raise ValueError("pass a table, see multimask.datasets.table")',
    ],
)
def test_what_the_core_may_do_is_not_found(source: str) -> None:
    assert not any(forbidden_in_core(module) for _, module in imports(source, "multimask.nn"))


def test_a_planted_arrow_between_the_folders_is_found() -> None:
    def found(source: str, package: str, forbidden: Callable[[str], bool]) -> bool:
        return any(forbidden(module) for _, module in imports(source, package))

    modality = ("multimask.modalities", forbidden_in_modalities)
    assert found("from multimask.datasets.table import Table", *modality)
    assert found("from ..datasets import table", *modality)
    assert found("import experiments.image", *modality)
    assert not found("from multimask.nn.adapters import LinearAdapter", *modality)
    assert not found("from .point_operators import knn", *modality)

    data = ("multimask.datasets.formats", forbidden_in_datasets)
    assert found("import multimask", *data)
    assert found("from multimask import load", *data)
    assert found("from multimask.modality import Tokenizer", *data)
    assert found("from ...modalities.image import ImagePatches", *data)
    assert not found("from multimask.tokens import BadSample", *data)
    assert not found("from multimask import tokens", *data)
    assert not found("from ..table import Table", *data)
    assert not found("import zarr, datasets", *data)


# --- what is loaded -------------------------------------------------------------------------------


def test_import_multimask_loads_torch_and_nothing_heavier() -> None:
    mine = loaded_by("import multimask")
    assert not mine & HEAVY
    extra = {name for name in mine - loaded_by("import torch") if not name.startswith("_")}
    assert extra <= LIGHT | set(sys.stdlib_module_names)


def loaded_by(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
