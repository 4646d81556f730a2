"""Layers sharded over ranks: each rank holds a part of every layer's weights and optimiser state.

FSDP2 (`fully_shard`) through Lightning's ModelParallelStrategy. Only layers are sharded: they hold
nearly all weights and are called as a whole, which is when FSDP puts their weights together.
Adapters, positions and tokens stay whole on every rank, and their gradients are averaged here.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from multimask.training.layers import layers


@runtime_checkable
class Sharded(Protocol):
    """What FSDP makes of a layer."""

    def unshard(self) -> Any: ...
    def reshard(self) -> None: ...
    def set_reshard_after_forward(self, reshard_after_forward: bool) -> None: ...


def shard(modules: Sequence[nn.Module], mesh: DeviceMesh) -> list[Sharded]:
    found = layers(modules)
    for layer in found:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    return [cast(Sharded, layer) for layer in found]


@contextmanager
def gathered(sharded: Sequence[Sharded]) -> Iterator[None]:
    """Within, every rank has whole layers and may call them as often as it likes: ranks validate on
    different numbers of batches. All ranks enter and leave together."""
    for layer in sharded:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    try:
        yield
    finally:
        for layer in sharded:
            layer.set_reshard_after_forward(True)
            layer.reshard()


def average_whole_gradients(parameters: Iterator[nn.Parameter], ranks: int) -> None:
    """What DDP does for all weights, for those that are not sharded; in one message."""
    whole = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
    for p in whole:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    gradients = [cast(Tensor, p.grad) for p in whole]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= ranks
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def clip(parameters: Iterator[nn.Parameter], largest: float) -> None:
    """`clip_grad_norm_` for weights of which some are sharded and some whole."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    local = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    squares = squared(local)
    distributed.all_reduce(squares)
    norm = (squares + squared(whole)).sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in local + whole:
        gradient.mul_(factor.to(gradient))


def squared(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of squares, in double precision."""
    device = tensors[0].device if tensors else torch.device("cpu")
    total = torch.zeros((), dtype=torch.float64, device=device)
    for tensor in tensors:
        total += tensor.double().square().sum()
    return total


def twins(modules: tuple[nn.Module, nn.Module]) -> tuple[Any, Any]:
    """Copies to shard, what they share still shared; the originals stay as they are."""
    return copy.deepcopy(modules)


def bring_back(modules: Sequence[nn.Module], trained: Sequence[nn.Module]) -> None:
    """Whole weights of the sharded twins, into the originals, on every rank."""
    for module, twin in zip(modules, trained, strict=True):
        state = {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in twin.state_dict().items()
        }
        module.load_state_dict(state)
