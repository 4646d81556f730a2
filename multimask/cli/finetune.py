"""`multimask finetune`: a saved model and a head trained on labels, beside random weights."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from multimask import pictures
from multimask.checkpoints import load
from multimask.checkpoints.folder import write_whole
from multimask.cli.control import fresh
from multimask.cli.data import augmented, check_label, model_table, models_table, parts_of
from multimask.cli.flags import to_yaml
from multimask.cli.heads import HeadFlags
from multimask.datasets.table import Table
from multimask.model import MaskedModel


@dataclass(frozen=True, kw_only=True)
class Finetune(HeadFlags):
    """Fine-tune a saved model on labels and hold it against the same network from random weights.

    Writes model/ (with its head), metrics.json, predictions.csv and, with several shares,
    labels.png. The defaults are MAE's for its base model.
    """

    data: Annotated[Path, "folder, CSV, Parquet, NPY or NPZ with labels; many modalities: a table"]
    out: Annotated[Path, "run folder"] = Path("runs/finetune")
    label: Annotated[str, "column with the classes"] = "label"
    epochs: Annotated[int, "passes over the labelled rows"] = 100
    batch_size: Annotated[int, "samples an optimiser step"] = 64
    shares: Annotated[tuple[float, ...], "shares of the labels: 0.01,0.05,0.1,1"] = (1.0,)
    min_steps: Annotated[int, "small shares are trained for at least so many steps"] = 200
    pool: Annotated[Literal["mean", "global"], "head on the mean or the class token"] = "mean"
    lr: Annotated[float | None, "peak learning rate; else 5e-4 for every 256 samples a step"] = None
    drop_path: Annotated[float | None, "chance of skipping the last block; default 0.1"] = None
    smoothing: Annotated[float, "label smoothing"] = 0.1
    mixup: Annotated[float, "a of Beta(a, a); 0 is off. Only where mixing means something"] = 0.8
    cutmix: Annotated[float, "likewise, for a box of one sample in another"] = 1.0
    drop: Annotated[float, "chance that a sample's modality is left out, never all"] = 0.0
    warmup: Annotated[float, "share of the steps with rising learning rate"] = 0.05
    seed: Annotated[int, "of the head, the order, crops and mixing"] = 0


def finetune(flags: Finetune) -> None:
    from multimask import finetuning  # seconds to import

    if flags.seeds < 1 or not flags.shares:
        raise ValueError(
            f"finetune: --seeds {flags.seeds} must be at least 1, and --shares name at least one."
        )
    model = load(flags.model)
    train, test = labelled_parts(flags, model)
    how = finetuning.Finetuning(
        pool=flags.pool,
        layer_decay=flags.layer_decay,
        drop_path=flags.drop_path,
        smoothing=flags.smoothing,
        mixup=flags.mixup,
        cutmix=flags.cutmix,
        drop=flags.drop,
        weight_decay=flags.weight_decay,
        warmup=flags.warmup,
        **({} if flags.lr is None else {"lr": flags.lr, "lr_per": None}),
    )
    flags.out.mkdir(parents=True, exist_ok=True)
    write_whole(flags.out / "config.yaml", to_yaml(flags).encode())
    pairs = {
        seed: (model, fresh(model, seed) if flags.control else None)
        for seed in range(flags.seed, flags.seed + flags.seeds)
    }
    curve = finetuning.label_curve(
        pairs,
        train,
        test,
        how,
        shares=flags.shares,
        label=flags.label,
        min_steps=flags.min_steps,
        keep=lambda made: made.classifier.save(flags.out / "model"),
        clip=flags.clip,
        **flags.training(),
    )
    metrics = {"train_rows": len(train), "test_rows": len(test), **curve.numbers()}
    write_whole(flags.out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    told = finetuning.Classifier.load(flags.out / "model").predict(
        test, workers=flags.workers, device=flags.device
    )
    write_whole(flags.out / "predictions.csv", as_csv(told, flags.label))
    print(f"{len(train)} training and {len(test)} test rows, {len(told.classes)} classes")
    print(curve)
    print(f"model             {flags.out / 'model'}")
    if len(curve.stages) > 1:
        pictures.save(curve.picture(), flags.out / "labels.png")
        print(f"look at           {flags.out / 'labels.png'}")


def labelled_parts(flags: Finetune, model: MaskedModel) -> tuple[Table, Table]:
    """Training rows, augmented, and test rows, of those that have the label."""
    table = (models_table if len(model.slots) > 1 else model_table)(model, flags.data)
    check_label(table, flags.label, flags.data, "to learn")
    there = [index for index, value in enumerate(table.columns[flags.label]) if value is not None]
    train, test = parts_of(table.select(there), flags.held_out, flags.limit)
    return augmented(train, model.tokenizers), test


def as_csv(told: Any, label: str) -> bytes:
    """id, what was said, how surely, and what is true."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["id", "predicted", "probability", label])
    for row in zip(
        told.ids, told.predicted, told.probabilities.max(axis=1), told.labels[label], strict=True
    ):
        writer.writerow([row[0], row[1], f"{row[2]:.6f}", row[3]])
    return stream.getvalue().encode()
