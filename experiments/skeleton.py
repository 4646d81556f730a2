"""Masked pre-training on motion: your skeleton files, or made motion of ten actions.

python experiments/skeleton.py --data MOTION --out runs/skeleton
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from multimask.cli.data import parts_of
from multimask.cli.experiment import RunFlags, Study, carry_out
from multimask.cli.flags import run
from multimask.cli.study import with_defaults
from multimask.datasets.formats.skeleton_facts import MOTION, NAMES, suggested
from multimask.datasets.formats.skeletons import SkeletonReader
from multimask.datasets.layouts.kinetics_skeleton import kinetics_skeleton
from multimask.datasets.layouts.mocap import bandai_namco, cmu_mocap
from multimask.datasets.layouts.ntu import ntu
from multimask.datasets.layouts.pyskl import pyskl
from multimask.datasets.motion import Augment, Clip
from multimask.datasets.synthetic_skeleton import walkers
from multimask.datasets.table import Table
from multimask.modalities.skeleton import SkeletonJoints
from multimask.tokens import BadSample

LAYOUTS: Mapping[str, Callable[..., dict[str, list[Any]]]] = {
    "ntu60-xsub": partial(ntu, protocol="xsub", classes=60),
    "ntu60-xview": partial(ntu, protocol="xview", classes=60),
    "ntu120-xsub": partial(ntu, protocol="xsub", classes=120),
    "ntu120-xset": partial(ntu, protocol="xset", classes=120),
    "kinetics": kinetics_skeleton,
    "cmu": cmu_mocap,
    "bandai-namco": bandai_namco,
    "pyskl": pyskl,
}


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Pre-train on skeletons in motion and show what was learned.

    Methods: mae (the shared transformer over joints and time), skeletonmae (a graph network over
    the bones of each frame).
    """

    out: Annotated[Path, "run folder"] = Path("runs/skeleton")
    epochs: Annotated[int, "passes over the training rows"] = 30
    # it would cost as much as the training
    online_knn: Annotated[bool, "kNN accuracy after every epoch; reads all rows for it"] = False
    topology: Annotated[
        str | None, "coco17, openpose18, openpose25, ntu25, smpl24; default: what the files say"
    ] = None
    frames: Annotated[int, "frames of a clip; longer ones are cropped"] = 32
    segment: Annotated[int | None, "frames of a token; default 8, for skeletonmae 1"] = None
    bodies: Annotated[int, "people of a clip, the most active ones"] = 1
    dims: Annotated[int | None, "coordinates of a joint; default: what the files say, or 3"] = None
    unit: Annotated[
        float | None, "file units that make 1 for the model; default: measured, from bodies' size"
    ] = None
    up: Annotated[Literal["y", "-y", "z"] | None, "axis that points up"] = None
    clip_how: Annotated[Literal["crop", "resample"], "frames in a row, or over all the take"] = (
        "crop"
    )
    centre: Annotated[
        Literal["clip", "frame", "none"],
        "root at zero in every frame, in a clip's first one (keeps where people go), or nowhere",
    ] = "frame"
    turn: Annotated[float, "degrees that training clips are turned about the vertical"] = 180.0
    noise: Annotated[float, "of training coordinates, standard deviation in the file's unit"] = 0.0
    axes: Annotated[str, "of arrays: m bodies, t frames, v joints, c coordinates"] = "mtvc"
    confidence: Annotated[bool, "the last coordinate of arrays is a confidence"] = False
    layout: Annotated[str | None, f"a public set's folders: {', '.join(LAYOUTS)}"] = None
    splits: Annotated[
        tuple[str, ...], "of a pyskl file: its splits to train and test on, xsub_train,xsub_val"
    ] = ()
    task: Annotated[Literal["action", "style"], "label of the made motion"] = "action"
    held_out: Annotated[float, "share held out for testing where the data name no split"] = 0.25


# what two cores train in minutes; with a GPU say --size small --frames 64 ...
TRANSFORMER = {
    "width": 96,
    "depth": 3,
    "heads": 4,
    "decoder_width": 64,
    "decoder_depth": 1,
    "decoder_heads": 4,
    "normalise": False,
    "segment": 8,
    "lr": 2e-3,
    "clip": 1.0,
}
GRAPH = {"width": 64, "segment": 1, "lr": 1e-3}


def main(config: Config) -> dict[str, object]:
    graph = config.method == "skeletonmae"
    config = with_defaults(config, GRAPH if graph else TRANSFORMER)
    tokenizer = tokenizer_for(config)
    plain = SkeletonReader(
        Clip(config.frames, config.clip_how),
        config.bodies,
        len(tokenizer.topology),
        tokenizer.dims,
        config.centre,
        tokenizer.topology.root,
        axes=config.axes,
        confidence=config.confidence,
    )
    augment = Augment(
        turn=config.turn if tokenizer.dims == 3 else 0.0,
        noise=config.noise,
        up="z" if tokenizer.up == "z" else "y",
    )
    table = walkers(label=config.task) if config.data is None else opened(config, plain)
    table = table.with_readers(skeleton=plain)
    train, test = parts_of(table, config.held_out, config.limit)
    if config.unit is None:
        tokenizer = replace(tokenizer, unit=typical_unit(train))
        print(f"unit: {tokenizer.unit:g} of the data's own is 1, as bodies are large")
    train = train.with_readers(skeleton=replace(plain, augment=augment))
    label = config.label if config.label in table.columns else None
    return carry_out(config, Study({"skeleton": tokenizer}, train, test, label))


def tokenizer_for(config: Config) -> SkeletonJoints:
    """Built for the topology and coordinates of the flags, else of the files."""
    told: dict[str, Any] = {"topology": "smpl24"}
    if config.data is not None:
        told = suggested(config.data)
    for name in ("topology", "dims", "unit", "up"):
        if (given := getattr(config, name)) is not None:
            told[name] = given
    if "topology" not in told:
        raise ValueError(
            f"{config.data}: its files do not say which joints they have; say --topology, or put "
            f'a {NAMES} beside them: {{"joints": names, "parents": indices}}.'
        )
    assert config.segment is not None  # with_defaults
    return SkeletonJoints(
        frames=config.frames,
        segment=config.segment,
        bodies=config.bodies,
        **SkeletonJoints.spelled(told),
    )


def typical_unit(table: Table, most: int = 32) -> float:
    """The largest of ... 0.1, 0.2, 0.5, 1, 2, 5, 10 ... that joints lie from the middle of their
    body, root mean square of a coordinate. Whatever files are written in, values are then about 1:
    far smaller ones vanish beside a token's place, larger ones drown it.

    Rows that cannot be read are left to training, which lists them.
    """
    squares: list[Tensor] = []
    for row in range(0, len(table), max(1, len(table) // most)):
        try:
            clip = table[row]["skeleton"].double()
        except (BadSample, OSError):
            continue
        known = clip.isfinite().all(dim=-1, keepdim=True)
        joints = known.sum(dim=2, keepdim=True).clamp(min=1)
        middle = torch.where(known, clip, 0.0).sum(dim=2, keepdim=True) / joints
        squares.append((clip - middle).square()[known.expand_as(clip)])
    size = float(torch.cat(squares).mean().sqrt()) if squares else 0.0
    if not 0 < size < math.inf:  # nothing was read, or all joints stand in one place
        return 1.0
    ten = 10.0 ** math.floor(math.log10(size))
    return max(step * ten for step in (1, 2, 5) if step * ten <= size * (1 + 1e-9))


def opened(config: Config, reader: SkeletonReader) -> Table:
    """The table of a path, by its layout where one is named."""
    assert config.data is not None  # main
    if config.layout is None:
        table = Table.open(config.data, modality="skeleton", reader=reader)
        return without_descriptions(table)
    if config.layout not in LAYOUTS:
        raise ValueError(f"--layout {config.layout}: there are {', '.join(LAYOUTS)}.")
    if (config.layout == "pyskl") != (len(config.splits) == 2):
        raise ValueError("--splits: name two, to train and to test on, with --layout pyskl only.")
    columns = LAYOUTS[config.layout](config.data, *config.splits)
    return Table.of(columns, {"skeleton": reader}, config.data)


def without_descriptions(table: Table) -> Table:
    """Without JSON that only describes: `skeleton.json`, and a motion file's of the same name."""
    files = [str(file) for file in table.columns["skeleton"]]
    motion = {os.path.splitext(file)[0] for file in files if file.lower().endswith(MOTION)}
    if not motion:
        return table
    return table.select(
        [
            not (file.lower().endswith(".json") and (is_names(file) or file[:-5] in motion))
            for file in files
        ]
    )


def is_names(file: str) -> bool:
    return os.path.basename(file) == NAMES


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
