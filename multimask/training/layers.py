"""The layers of encoders and decoders, one by one: where memory is saved."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def layers(modules: Iterable[nn.Module | None]) -> list[nn.Module]:
    """The members of every `nn.ModuleList` of these, but not those within another member: each is
    called as a whole."""
    found: list[nn.Module] = []
    for module in modules:
        if isinstance(module, nn.ModuleList):
            found += [each for each in module if any(True for _ in each.parameters())]
        elif module is not None:
            found += layers(module.children())
    return found


@contextmanager
def recomputed(modules: Iterable[nn.Module | None], wanted: bool) -> Iterator[None]:
    """Layers keep their inputs alone and compute the rest again in the backward pass (activation
    checkpointing): less memory for about a third more time. As before afterwards."""
    chosen = layers(modules) if wanted else []
    for layer in chosen:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in chosen:
            del layer.forward  # the class's own is behind it
