"""What an experiment is told and what it hands over: the shared flags, and the Study."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from multimask.datasets.table import Table
from multimask.modality import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """The flags that all experiments share."""

    data: Annotated[Path | None, "folder, CSV, Parquet, NPY or NPZ; default: embedded data"] = None
    out: Annotated[Path, "run folder"] = Path("runs/run")
    epochs: Annotated[int, "passes over the training rows"] = 100
    batch_size: Annotated[int, "samples an optimiser step"] = 64
    accumulate: Annotated[int, "micro-batches a step is split into (less memory)"] = 1
    method: Annotated[str, "pre-training method, by plug-in name"] = "mae"
    size: Annotated[str, "encoder: tiny, small, base, large, huge"] = "tiny"
    width: Annotated[int | None, "encoder width, instead of the size's"] = None
    depth: Annotated[int | None, "encoder depth, instead of the size's"] = None
    heads: Annotated[int | None, "encoder heads, instead of the size's"] = None
    decoder_width: Annotated[int | None, "decoder width, instead of the method's"] = None
    decoder_depth: Annotated[int | None, "decoder depth, instead of the method's"] = None
    decoder_heads: Annotated[int | None, "decoder heads, instead of the method's"] = None
    ratio: Annotated[float | None, "share of tokens hidden, instead of the method's"] = None
    masker: Annotated[str | None, "who is hidden, by plug-in name: random, block, grid ..."] = None
    normalise: Annotated[bool | None, "regress values normalised per token"] = None
    lr: Annotated[float | None, "peak learning rate, not scaled by the batch"] = None
    warmup: Annotated[float | None, "share of the steps with rising learning rate"] = None
    clip: Annotated[float | None, "largest gradient norm"] = None
    seed: Annotated[int, "of weights, order, crops and masks"] = 0
    seeds: Annotated[int, "how many runs, with seeds counted up from the first"] = 1
    workers: Annotated[int, "processes that read data"] = 0
    device: Annotated[str, "auto, cpu, cuda"] = "auto"
    precision: Annotated[Literal["32", "bf16", "fp16", "tf32"], "numbers in matrix products"] = "32"
    strategy: Annotated[Literal["ddp", "fsdp"], "weights on every rank, or sharded"] = "ddp"
    compile: Annotated[bool, "compile encoder and decoder"] = False
    recompute: Annotated[bool, "activation checkpointing: less memory, more time"] = False
    profile: Annotated[bool, "say where steps spend their time"] = False
    save_minutes: Annotated[float, "longest time between two checkpoints"] = 10.0
    save_steps: Annotated[int | None, "a checkpoint every so many steps, too"] = None
    keep: Annotated[int, "how many of the latest checkpoints stay beside last.ckpt"] = 0
    keep_best: Annotated[bool, "the epoch with the lowest held-out loss stays, too"] = False
    init: Annotated[Path | None, "weights to begin with, of ours or other projects"] = None
    keep_memory: Annotated[bool, "reuse freed memory: quicker steps (Linux, glibc)"] = True
    resume: Annotated[Path | None, "checkpoint to go on from: .../checkpoints/last.ckpt"] = None
    limit: Annotated[int | None, "use only the first N rows of each part"] = None
    max_bad: Annotated[float, "share of unreadable samples at which the run fails"] = 0.2
    label: Annotated[str, "column with the classes that probes tell apart"] = "label"
    online_knn: Annotated[bool, "kNN accuracy after every epoch; reads all rows for it"] = True
    evaluate: Annotated[
        tuple[str, ...], "beside linear probe and kNN: svm, few-shot, finetune"
    ] = ()
    ways: Annotated[int, "classes of a few-shot trial"] = 5
    shots: Annotated[int, "labelled rows of each class in a few-shot trial"] = 10
    finetune_epochs: Annotated[int, "passes over the labelled rows in fine-tuning"] = 20
    finetune_lr: Annotated[float, "peak learning rate of fine-tuning"] = 1e-3


@dataclass(frozen=True)
class Study:
    """What an experiment hands over. train is pre-trained on (augmented when it can `draw`);
    test is never trained on. Where a label column is there, probes learn on train and are scored
    on test; else losses are all that is reported."""

    modalities: Mapping[str, Tokenizer]
    train: Table
    test: Table
    label: str | None
    method_arguments: Mapping[str, Any] = field(default_factory=dict)


Flags = TypeVar("Flags", bound=RunFlags)
COUNTS = ("epochs", "batch_size")  # 0 leaves them open, as None does other flags
SHAPE = ("width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads")


def with_defaults(flags: Flags, defaults: Mapping[str, Any]) -> Flags:
    """The flags, those that were left open with the values that suit the data. A size that was
    asked for brings a shape of its own."""
    skipped = () if flags.size == "tiny" else SHAPE
    left_open = {
        name: value
        for name, value in defaults.items()
        if getattr(flags, name) == (0 if name in COUNTS else None) and name not in skipped
    }
    return replace(flags, **left_open)


def sides(size: int | tuple[int, ...] | None, flag: str) -> tuple[int, int]:
    """(height, width) of a flag that may give one side of a square.

    >>> sides(64, "--image-size"), sides((96, 160), "--image-size")
    ((64, 64), (96, 160))
    """
    given = (size, size) if isinstance(size, int) else size or ()
    if len(given) != 2:
        raise ValueError(f"{flag}: write one side, 64, or height x width, 96x160.")
    return given[0], given[1]
