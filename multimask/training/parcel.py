"""From a worker to the main process: many small tensors by value, large ones through shared memory.

Torch hands every tensor over as a file descriptor of its own. A batch has dozens of small ones
(ids, flat lists, rows), which costs the main process more time than making the batch takes a
worker, and with many workers runs out of descriptors.
"""

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

SMALL = 1 << 17  # bytes


@dataclass(frozen=True, eq=False)
class Parcel:
    """Records without their tensors, and the tensors. Never leaves the machine."""

    records: bytes
    small: list[np.ndarray]
    large: list[Tensor]

    def opened(self) -> Any:
        return Opener(self).load()

    def pin_memory(self) -> Any:
        """A loader that pins calls this, in a thread of its own."""
        opened = self.opened()
        if isinstance(opened, tuple):
            return tuple(each.pin_memory() for each in opened)
        return opened.pin_memory()


class Packer(pickle.Pickler):
    """Puts tensors aside."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.small: list[np.ndarray] = []
        self.large: list[Tensor] = []

    def persistent_id(self, obj: Any) -> tuple[str, int] | None:
        if not isinstance(obj, Tensor):
            return None
        if obj.nbytes <= SMALL and obj.layout == torch.strided and obj.dtype != torch.bfloat16:
            self.small.append(obj.numpy())
            return "small", len(self.small) - 1
        self.large.append(obj)
        return "large", len(self.large) - 1


class Opener(pickle.Unpickler):
    def __init__(self, parcel: Parcel) -> None:
        super().__init__(io.BytesIO(parcel.records))
        self.parcel = parcel

    def persistent_load(self, pid: tuple[str, int]) -> Tensor:
        size, index = pid
        if size == "small":
            return torch.from_numpy(self.parcel.small[index])
        return self.parcel.large[index]


@dataclass(frozen=True, eq=False)
class Packed:
    """A collate function whose results are packed where they leave a worker."""

    collate: Callable[[Sequence[Any]], Any]

    def __call__(self, items: Sequence[Any]) -> Any:
        made = self.collate(items)
        if get_worker_info() is None:
            return made
        packer = Packer(file := io.BytesIO())
        packer.dump(made)
        return Parcel(file.getvalue(), packer.small, packer.large)


class OpeningLoader(DataLoader[Any]):
    """Opens parcels as they arrive."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        arriving = super().__iter__()
        return (each.opened() if isinstance(each, Parcel) else each for each in arriving)
