"""What gets installed: every folder of code, under our import name only, and little beside it."""

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_code_is_packaged_and_linked() -> None:
    setuptools = settings()["tool"]["setuptools"]
    tops = [ROOT / top for top in ("multimask", "modalities", "datasets")]
    code = {file.parent.resolve() for top in tops for file in top.rglob("*.py")}
    where, packages = setuptools["package-dir"], setuptools["packages"]
    packaged = {folder_of(name, where).resolve() for name in packages}
    assert code == packaged, "pyproject.toml lists other packages than there are folders with code"
    links = {
        entry: os.readlink(entry) for top in tops for entry in top.rglob("*") if entry.is_symlink()
    }
    wanted = {ROOT / "multimask" / name: f"../{name}" for name in ("modalities", "datasets")}
    assert links == wanted, "these two links and no others; if they are files: core.symlinks true"


def folder_of(package: str, where: dict[str, str]) -> Path:
    """A package's folder under a package-dir map, which also moves the children of its entries."""
    for parent in (name for name in where if f"{package}.".startswith(f"{name}.")):
        return ROOT / where[parent] / package.removeprefix(parent).strip(".").replace(".", "/")
    return ROOT / package.replace(".", "/")


def test_only_the_core_has_init_files() -> None:
    for file in (ROOT / "multimask").rglob("*.py"):
        assert (file.parent / "__init__.py").exists(), f"{file.parent} needs an __init__.py"
    for name in ("modalities", "datasets"):
        inits = [str(file) for file in (ROOT / name).rglob("__init__.py")]
        assert not inits, "it would hide other packages of that name"


def test_every_name_that_pyproject_declares_leads_to_something() -> None:
    project = settings()["project"]
    groups = {"scripts": project["scripts"], **project["entry-points"]}
    for group, names in groups.items():
        for name, target in names.items():
            module, _, attribute = target.partition(":")
            assert hasattr(importlib.import_module(module), attribute), f"{group}: {name}"


def test_the_version_is_the_same_everywhere() -> None:
    version = settings()["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_nothing_that_we_require_asks_for_torchvision() -> None:
    # one that does not match torch makes `import lightning` fail
    everything = [*settings()["project"]["optional-dependencies"]]
    assert "torchvision" not in required(extras=everything)


def test_the_base_install_is_small() -> None:
    # what torch brings differs by platform; a CPU build with its own makes ten
    base = required() - required_by(["torch"])
    assert len(base) < 48, sorted(base)
    assert not base & {"matplotlib", "rich", "pandas", "timm"}


def required(extras: list[str] | None = None) -> set[str]:
    project = settings()["project"]
    optional = project["optional-dependencies"]
    asked = project["dependencies"] + [line for extra in extras or () for line in optional[extra]]
    return required_by(asked)


def required_by(lines: list[str]) -> set[str]:
    """Names of all that these requirements bring, as far as it is installed here."""
    found: set[tuple[str, str]] = set()  # a name is walked once per extra; "" is none
    todo = [(Requirement(line), "") for line in lines]
    while todo:
        requirement, asked_for = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": asked_for}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                todo += [(Requirement(line), extra) for line in requires(name) or ()]
            except PackageNotFoundError:
                continue
    return {name for name, _ in found}


def test_a_wheel_built_from_the_sdist_holds_the_two_folders(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=unwanted)
    for name in ("modalities", "datasets"):  # as on a system without symbolic links
        (tree / "multimask" / name).unlink()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    done = subprocess.run([*command, str(tree)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"modalities/image.py", "datasets/table.py", "py.typed", "nn/__init__.py"}
    assert {f"multimask/{name}" for name in wanted} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"multimask"}
