"""Windows that are read once and kept: as they are, or mirrored and turned, all sensors alike."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from multimask.datasets.remembered import Remembered

PLACES = torch.arange(16).view(4, 4)


@dataclass
class Counted:
    """Gives the same window of every source, as bands or as a map, and counts how often."""

    bands: bool
    asked: list[str] = field(default_factory=list)
    suffixes = ()

    def probe(self, source: Any) -> dict[str, Any]:
        return {"height": 4}

    def read(self, source: Any, generator: Generator | None = None) -> Any:
        self.asked.append(source)
        return {"pixels": PLACES[None], "names": ("a",)} if self.bands else PLACES


def test_a_window_is_read_once_and_comes_back_as_it_is() -> None:
    inner = Counted(bands=False)
    reader = Remembered(inner)
    for source in ("a", "b", "a", "a"):
        assert torch.equal(reader.read(source), PLACES)
    reader.read("b", Generator().manual_seed(0))
    assert torch.equal(reader.read("b"), PLACES)  # what is kept stays as it was
    assert inner.asked == ["a", "b"]
    assert reader.probe("a") == {"height": 4}


def test_windows_of_all_sensors_are_laid_alike() -> None:
    bands, depth = Remembered(Counted(bands=True)), Remembered(Counted(bands=False))
    ways: list[Tensor] = []
    for seed in range(40):
        cube, laid = (one.read("a", Generator().manual_seed(seed)) for one in (bands, depth))
        assert torch.equal(cube["pixels"][0], laid)
        assert cube["names"] == ("a",)
        ways.append(laid)
    assert len(torch.stack(ways).unique(dim=0)) == 8
