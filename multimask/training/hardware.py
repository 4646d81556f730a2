"""Where a run computes, in which numbers, and what it took."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["32", "bf16", "fp16", "tf32"]
Strategy = Literal["ddp", "fsdp"]


def chosen_device(device: str) -> torch.device:
    """What was asked for; "auto" takes a GPU where there is one. Raises ValueError for a device
    that is not here."""
    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(kind for kind, there in here.items() if there)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"fit: device={device!r} is none; use auto, cpu, cuda or mps.") from error
    if not here.get(chosen.type, False):
        raise ValueError(
            f"fit: device={device!r} is not on this machine; it has "
            f"{', '.join(kind for kind, there in here.items() if there)}."
        )
    if chosen.type == "cuda" and ranks() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return chosen


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises ValueError where the hardware would emulate what is asked for, or cannot do it."""
    if precision not in ("32", "bf16", "fp16", "tf32"):
        raise ValueError(f"fit: precision={precision!r} must be 32, bf16, fp16 or tf32.")
    if precision == "bf16" and not has_bf16(device):
        raise ValueError(
            f"fit: precision='bf16' on this {device.type} is emulated and many times slower; it "
            "needs a GPU with bf16, or a CPU with AMX or AVX512-BF16. Use precision='32'."
        )
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(
            f"fit: precision='fp16' needs a CUDA device, not {device.type}; use precision='32'."
        )
    if precision == "tf32" and not has_tf32(device):
        raise ValueError(
            "fit: precision='tf32' needs a CUDA device of compute capability 8 or higher; "
            "use precision='32'."
        )


def has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def cpu_flags() -> set[str]:
    """What this processor can do, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    said = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return set(next(said, "").split())


@contextmanager
def numbers(precision: Precision) -> Iterator[None]:
    """fp32 matrix products at tf32's or at full precision; as before afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def compiled(modules: list[nn.Module | None], wanted: bool) -> Iterator[None]:
    """Compile in place, which keeps names of weights; plain again afterwards."""
    present = [module for module in modules if wanted and module is not None]
    for module in present:
        module.compile()
    try:
        yield
    finally:
        for module in present:
            module._compiled_call_impl = None


# --- several ranks --------------------------------------------------------------------------------


def ranks() -> int:
    """How many processes take part: as many as `torchrun` started, else one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_WORLD_SIZE" in os.environ else 1


def rank() -> int:
    return int(os.environ["RANK"]) if ranks() > 1 else 0


def check_strategy(strategy: Strategy) -> None:
    if strategy not in ("ddp", "fsdp"):
        raise ValueError(f"fit: strategy={strategy!r} must be 'ddp' or 'fsdp'.")
    if strategy == "fsdp" and ranks() == 1:
        raise ValueError(
            "fit: strategy='fsdp' shards over ranks and there is one; start the program with "
            "torchrun --nproc-per-node=N, or use strategy='ddp'."
        )


def placement(device: torch.device, strategy: Strategy = "ddp") -> dict[str, Any]:
    """Arguments that tell Lightning where to run."""
    if ranks() > 1:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        where = {"devices": here, "num_nodes": ranks() // here, "strategy": spread(strategy)}
    elif device.index is not None:
        where = {"devices": [device.index]}
    else:
        where = {"devices": 1}
    return {"accelerator": device.type, **where}


def spread(strategy: Strategy) -> Any:
    if strategy == "ddp":
        return "ddp"
    from lightning.pytorch.strategies import ModelParallelStrategy

    return ModelParallelStrategy(
        data_parallel_size=ranks(), tensor_parallel_size=1, save_distributed_checkpoint=False
    )


# --- memory ---------------------------------------------------------------------------------------


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """MiB: the most a CUDA device held since `forget_peak`; elsewhere the most this process ever
    held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    here = peak_of_status(Path("/proc/self/status"))
    if here is not None:
        return here
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def peak_of_status(file: Path) -> float | None:
    """MiB of VmHWM, None where a system has none. Linux starts a program's `ru_maxrss` at what the
    process that called it held, so one that a large process started would look as large."""
    if not file.is_file():
        return None
    lines = (line.split() for line in file.read_text().splitlines())
    return next((int(words[1]) / 2**10 for words in lines if words[:1] == ["VmHWM:"]), None)
