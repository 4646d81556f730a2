"""`multimask doctor`: versions, back ends found, and the traps that bite in practice."""

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import multimask
from multimask import plugins

NEEDED = (
    "torch",
    "lightning",
    "monai",
    "torch-geometric",
    "einops",
    "zarr",
    "numpy",
    "scikit-learn",
    "pillow",
    "simplejpeg",
    "tifffile",
    "safetensors",
    "jaxtyping",
    "tqdm",
)
OPTIONAL = {
    "decord": "second opinion on clips; reads runs of frames if asked to (Linux x86-64)",
    "pytorch3d": "compiled point operators; ours are used without it",
    "pyarrow": "Parquet tables",
    "huggingface-hub": "sharing models",
}
COMPROMISED = {"2.6.2", "2.6.3"}  # releases of lightning that carried foreign code


def doctor() -> int:
    """Print what is found. 1 when something that is needed does not work, else 0."""
    print(f"multimask {multimask.__version__} in {Path(multimask.__file__).parent}")
    print(f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")
    print("\nNeeded")
    for name in NEEDED:
        print(f"  {name:<18}{installed(name) or 'MISSING: pip install ' + name}")
    print("\nOptional")
    for name, use in OPTIONAL.items():
        print(f"  {name:<18}{installed(name) or 'not installed'}  ({use})")
    print("\nHardware")
    for line in hardware():
        print(f"  {line}")
    print("\nPlug-ins")
    for group in plugins.GROUPS:
        found = plugins.available(group)
        foreign = sorted(n for n, p in found.items() if not p.value.startswith("multimask."))
        more = f" (from other packages: {', '.join(foreign)})" if foreign else ""
        print(f"  {group:<18}{', '.join(found)}{more}")
    problems = list(find_problems())
    print("\nProblems" if problems else "\nNo problems found.")
    for problem in problems:
        print(f"  {problem}")
    return 1 if problems else 0


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def hardware() -> Iterator[str]:
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            yield f"GPU {index}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB, {bf16}"
    else:
        yield "no GPU: training runs on the CPU in 32-bit precision"
    yield f"torch uses {torch.get_num_threads()} threads"
    shared = Path("/dev/shm")
    if shared.exists() and (free := shutil.disk_usage(shared).free) < 2**30:
        yield f"/dev/shm has only {free / 2**20:.0f} MiB free: use few loader workers"


def find_problems() -> Iterator[str]:
    """What is known to go wrong, each with its way out."""
    for name in NEEDED:
        if installed(name) is None:
            yield f"{name} is not installed: pip install {name}"
    if installed("lightning") in COMPROMISED:
        yield "this release of lightning was compromised: pip install 'lightning>=2.6.4'"
    if (reason := broken("torchvision")) is not None:
        yield (
            f"torchvision is installed but does not import ({reason}); Lightning then fails too. "
            "multimask does not need it: pip uninstall torchvision, or install the release that "
            "belongs to this torch"
        )
    elif (reason := broken("lightning")) is not None:
        yield f"lightning does not import ({reason})"
    folder = Path(multimask.__file__).parent
    for name in ("modalities", "datasets"):
        if importlib.util.find_spec(f"multimask.{name}") is None:
            yield (
                f"multimask.{name} cannot be imported; in a checkout made without symbolic links "
                f"run: git config core.symlinks true && git checkout -- multimask/{name}"
            )
        elif (folder / name).is_file():
            yield f"{folder / name} is a plain file: this checkout lost its symbolic links"
    if importlib.util.find_spec("zarrs") is not None:
        yield "the zarrs pipeline deadlocks in forked loader workers: do not activate it"


def broken(name: str) -> str | None:
    """Why an installed package does not import; None when it does, or is not there."""
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        return None
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    return None
