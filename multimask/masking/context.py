"""What a masker may know beside which tokens exist."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multimask.tokens import Grid, Slots, TokenBatch


@dataclass(frozen=True)
class Context:
    """slots: where each modality's tokens stand. grids: each modality's lattice, None for sets.
    complete: known to the host, every slot of every sample exists. tokens: the tokenized batch,
    for rules that say `needs_content = True`; such maskings are drawn in the step, not in the
    loader. extra: what else such a rule asks of its objective (attention, predicted loss). step:
    the optimiser step, for budgets that change during a run.
    """

    slots: Slots
    grids: Mapping[str, Grid | None] = field(default_factory=dict)
    complete: bool = False
    tokens: TokenBatch | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0

    def grid(self, name: str, needed_by: str) -> Grid:
        grid = self.grids.get(name)
        if grid is None:
            raise ValueError(
                f"{needed_by}: modality {name!r} has no lattice, so cells have no neighbours; "
                "use Uniform, or a rule made for sets."
            )
        return grid
