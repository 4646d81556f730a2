"""A reader of windows that reads each once: for small ones, many of which lie in a file."""

from dataclasses import dataclass, field
from typing import Any

from torch import Generator

from multimask.datasets.formats.spectral import flipped


@dataclass(frozen=True, eq=False)
class Remembered:
    """Reads a window once and keeps it, for they are small and many lie in a file; with a generator
    it is mirrored and turned, all sensors' windows alike."""

    reader: Any
    windows: dict[str, Any] = field(default_factory=dict)

    suffixes = ()

    def probe(self, source: Any) -> dict[str, Any]:
        return self.reader.probe(source)

    def read(self, source: Any, generator: Generator | None = None) -> Any:
        if source not in self.windows:
            self.windows[source] = self.reader.read(source)
        value = self.windows[source]
        if generator is None:
            return value
        if isinstance(value, dict):
            return value | {"pixels": flipped(value["pixels"], generator)}
        return flipped(value[None], generator)[0]
