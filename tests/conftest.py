"""What all tests share: two CPU threads, and skipping what this machine cannot run."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SHARED_DATA = Path(os.environ.get("MULTIMASK_SHARED_DATA") or ROOT / "../shared/data").resolve()


def pytest_configure() -> None:
    torch.set_num_threads(2)  # sums depend on it, so it is the same on every machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("shared") and not SHARED_DATA.is_dir():
        pytest.skip(
            f"there is no folder {SHARED_DATA}; "
            "set MULTIMASK_SHARED_DATA to where the shared example data lie."
        )
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device.")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared example data. A test that asks for it is marked `shared`."""
    return SHARED_DATA
