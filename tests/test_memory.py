"""The allocator keeps what it is given back, where it is asked to and nobody else tuned it."""

import subprocess
import sys

import pytest

from multimask.training import memory

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
