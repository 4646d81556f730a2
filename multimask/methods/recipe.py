"""What a method returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multimask.model import MaskedModel
from multimask.objectives.base import Objective


@dataclass(frozen=True)
class Recipe:
    """model and objective, and the paper's defaults for `fit` (`training`, as its keywords)."""

    model: MaskedModel
    objective: Objective
    training: Mapping[str, Any] = field(default_factory=dict)
