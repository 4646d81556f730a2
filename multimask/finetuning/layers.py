"""What fine-tuning asks of an encoder: its layers in order, drop path, no last norm."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from multimask.model import MaskedModel
from multimask.tokens import Batch


def layer_factors(model: MaskedModel, decay: float) -> dict[int, float]:
    """A factor on the learning rate of each of the model's parameters, by the parameter's `id`.

    Layer-wise decay (BEiT, Bao et al. 2022; MAE's fine-tuning): the last block learns at `decay`
    times the head's rate, the one before at `decay` squared, and what makes tokens (adapters,
    global tokens) at one power more than the first block; norms behind the blocks as the head. An
    encoder without a list of `blocks` counts as one block.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"finetune: layer_decay={decay} must lie in (0, 1]; 1 is no decay.")
    blocks = cast(Sequence[nn.Module] | None, getattr(model.encoder, "blocks", None))
    whole = [model.encoder] if blocks is None else list(blocks)
    first = decay ** (len(whole) + 1)
    factors = {id(p): first for p in model.parameters()}
    if blocks is not None:
        behind = (m for name, m in model.encoder.named_children() if name.endswith("norm"))
        factors |= {id(p): 1.0 for module in behind for p in module.parameters()}
    for index, block in enumerate(whole):
        factors |= {id(p): decay ** (len(whole) - index) for p in block.parameters()}
    return factors


def prepared(model: MaskedModel, batch: Batch, drop_path: float | None, norm: bool) -> MaskedModel:
    """A copy to fine-tune: its encoder with these drop-path rates and with or without its last
    norm; what encoding does not use (decoder, heads) is frozen.

    drop_path: None takes .1 where the encoder knows it. norm: False drops the norm behind the
    blocks where the encoder can do without.
    Raises: ValueError for a drop_path that the encoder does not take.
    """
    model = copy.deepcopy(model)
    takes = inspect.signature(type(model.encoder)).parameters
    changed: dict[str, Any] = {}
    if drop_path is not None and drop_path != 0 and "drop_path" not in takes:
        raise ValueError(
            f"finetune: drop_path={drop_path}, but {type(model.encoder).__name__} takes none; "
            "say drop_path=0."
        )
    if "drop_path" in takes:
        changed["drop_path"] = 0.1 if drop_path is None else drop_path
    if not norm and "final_norm" in takes:
        changed["final_norm"] = False
    if changed:
        with_encoder(model, changed)
    freeze_unused(model, batch)
    return model


def with_encoder(model: MaskedModel, changed: dict[str, Any]) -> None:
    """Put an encoder with other arguments and the same weights in the place of the model's."""
    old = model.encoder
    arguments = cast(dict[str, Any], old.arguments) | changed
    new = type(old)(**arguments)
    names = new.state_dict()
    new.load_state_dict({k: v for k, v in old.state_dict().items() if k in names})
    model.encoder = new
    model.resolved["encoder"] = new


def freeze_unused(model: MaskedModel, batch: Batch) -> None:
    """No gradient for what encoding this batch leaves alone. Adapters of modalities that it lacks
    run on zero rows and so count as used."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        latents = model.encode(batch.to(model.device))
        total = latents.tokens.float().sum() + latents.globals.float().sum()
        found = cast(
            tuple[Tensor | None, ...], torch.autograd.grad(total, trained, allow_unused=True)
        )
    for parameter, gradient in zip(trained, found, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
