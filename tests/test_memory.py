"""The allocator keeps what it is given back, where it is asked to and nobody else tuned it; the
peak that is reported is this process's own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from multimask.training import hardware, memory

HELD = """
import sys
from multimask.training.memory import keep_freed_memory

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024

if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resident()
blocks = [bytearray(40 * 2**20) for _ in range(4)]  # what glibc gives back in any case by default
del blocks
print(resident() - before)
"""


def held(how: str) -> int:
    """MiB that a process still has of 160 that it freed."""
    command = [sys.executable, "-c", HELD, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(memory.platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_stays_where_it_is_asked_to() -> None:
    assert held("plain") < 50
    assert held("keep") > 150


def test_an_environment_that_tunes_the_allocator_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert not memory.keep_freed_memory()


STATUS = Path("/proc/self/status")
PEAK = """
import torch
from multimask.training import hardware
print(hardware.peak_memory(torch.device("cpu")))
"""
LARGE = f"""
import subprocess, sys
held = b"x" * (800 * 2**20)
print(subprocess.run([sys.executable, "-c", {PEAK!r}], stdout=subprocess.PIPE, text=True).stdout)
"""


@pytest.mark.skipif(hardware.peak_of_status(STATUS) is None, reason="no peak of its own here")
def test_the_peak_is_not_that_of_a_large_process_that_started_this_one() -> None:
    found = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True
    )
    assert 50 < float(found.stdout) < 700  # torch, and not the 800


def test_without_a_status_of_its_own_the_peak_is_what_the_system_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    assert hardware.peak_of_status(status) is None
    status.write_text("Name:\tpython\nVmRSS:\t  1024 kB\n")
    assert hardware.peak_of_status(status) is None
    status.write_text("Name:\tpython\nVmHWM:\t  3072 kB\nVmRSS:\t  1024 kB\n")
    assert hardware.peak_of_status(status) == 3
    monkeypatch.setattr(hardware, "peak_of_status", lambda file: None)
    assert hardware.peak_memory(torch.device("cpu")) > 50
