"""What `finetune` and `segment` share: the flags of training with a head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal


@dataclass(frozen=True, kw_only=True)
class HeadFlags:
    """Train a saved model and a head, beside the same network from random weights."""

    model: Annotated[Path, "folder of a saved model, or weights of another project"]
    data: Annotated[Path, "rows to learn from"]
    out: Annotated[Path, "run folder"] = Path("runs/head")
    epochs: Annotated[int, "passes over the labelled rows"] = 50
    batch_size: Annotated[int, "samples an optimiser step"] = 64
    accumulate: Annotated[int, "micro-batches a step is split into (less memory)"] = 1
    control: Annotated[bool, "train the same network from random weights as well"] = True
    layer_decay: Annotated[float, "factor on the rate from a block to the one before"] = 0.65
    weight_decay: Annotated[float, "of matrices"] = 0.05
    clip: Annotated[float | None, "largest gradient norm"] = None
    seed: Annotated[int, "of the head, the order and the random weights"] = 0
    seeds: Annotated[int, "how many runs, with seeds counted up from the first"] = 1
    held_out: Annotated[float, "share tested on where the data name no split"] = 0.25
    limit: Annotated[int | None, "use only the first N rows of each part"] = None
    workers: Annotated[int, "processes that read data"] = 0
    device: Annotated[str, "auto, cpu, cuda"] = "auto"
    precision: Annotated[Literal["32", "bf16", "fp16", "tf32"], "numbers in matrix products"] = "32"
    max_bad: Annotated[float, "share of unreadable samples at which the run fails"] = 0.2

    def training(self) -> dict[str, Any]:
        """What `fit` is told as it stands."""
        names = ("epochs", "batch_size", "accumulate", "workers", "device", "precision", "max_bad")
        return {name: getattr(self, name) for name in names}
