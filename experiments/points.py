"""Masked pre-training on point clouds: your scans and meshes, or made shapes.

python experiments/points.py --data CLOUDS --out runs/clouds
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from multimask.cli.data import parts_of
from multimask.cli.experiment import carry_out
from multimask.cli.flags import run
from multimask.cli.study import RunFlags, Study, with_defaults
from multimask.datasets.formats.points import PointReader
from multimask.datasets.layouts.clouds import Layout, cloud_table
from multimask.datasets.point_transforms import Augment
from multimask.datasets.synthetic_points import shapes
from multimask.modalities.points import PointGroups

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Pre-train Point-MAE on point clouds and show what it learned."""

    data: Annotated[Path | None, "folder, CSV, Parquet, NPY or NPZ; default: made shapes"] = None
    out: Annotated[Path, "run folder"] = Path("runs/points")
    epochs: Annotated[int, "passes over the training rows; 0: made shapes 5, else 100"] = 0
    batch_size: Annotated[int, "samples an optimiser step"] = 32
    method: Annotated[str, "pre-training method, by plug-in name"] = "point-mae"
    size: Annotated[str, "encoder: mini (for two cores), tiny, small (Point-MAE's), base"] = "mini"
    layout: Annotated[Layout, "what a folder holds; auto knows public sets by their files"] = "auto"
    groups: Annotated[int | None, "tokens of a cloud; default 64, made shapes 32"] = None
    group_size: Annotated[int | None, "points of a group; default 32, made shapes 16"] = None
    points: Annotated[int | None, "points drawn from a cloud; default 16 a group"] = None
    features: Annotated[tuple[str, ...], "read beside x, y, z: nx,ny,nz or red,intensity"] = ()
    frame: Annotated[
        Literal["sphere", "centre", "none"],
        "mean at 0 and radius 1; mean at 0 in the file's unit; as it is",
    ] = "sphere"
    nonfinite: Annotated[Literal["error", "drop"], "NaN points: skip the cloud, or them"] = "error"
    up: Annotated[Literal["x", "y", "z"], "upright axis, of turns and pictures"] = "y"
    rotate: Annotated[
        Literal["none", "up", "any"] | None, "random turns; default none, made shapes up"
    ] = None
    jitter: Annotated[float, "standard deviation of noise on training points"] = 0.0
    norm: Annotated[Literal["l1", "l2"] | None, "chamfer: distances, or squares (default)"] = None
    embed_visible_only: Annotated[
        bool | None, "hidden groups skip the mini-PointNet; default no, made shapes yes"
    ] = None
    net_width: Annotated[int | None, "of the mini-PointNet; 128, made shapes 64"] = None
    drop_path: Annotated[float | None, "largest chance to skip a block; 0.1, mini 0"] = None
    backend: Annotated[
        Literal["pytorch3d", "tree", "torch"] | None, "who computes neighbours; default: fastest"
    ] = None
    held_out: Annotated[float, "share held out for testing where the data name no split"] = 0.25


OF_METHOD = ("norm", "embed_visible_only", "net_width", "drop_path")
# what one core trains in a minute
SHAPES = {"epochs": 5, "groups": 32, "group_size": 16, "rotate": "up"}
SHAPES_MINI = {"width": 96, "depth": 3, "heads": 4, "decoder_depth": 1, "lr": 2e-3}
SHAPES_MINI |= {"net_width": 64, "embed_visible_only": True, "drop_path": 0.0}
# a few hundred clouds in minutes; with a GPU say --size small --epochs 300 --batch-size 128
CLOUDS = {"epochs": 100, "groups": 64, "group_size": 32, "rotate": "none"}
CLOUDS_MINI = {"width": 128, "depth": 4, "heads": 4, "decoder_depth": 2, "drop_path": 0.0}


def main(config: Config) -> dict[str, Any]:
    config = completed(config)
    tokenizer = PointGroups(
        given(config.groups),
        given(config.group_size),
        len(config.features),
        config.up,
        config.backend,
    )
    count = 16 * tokenizer.num_groups if config.points is None else config.points
    if count < tokenizer.fewest:
        raise ValueError(
            f"--points {count}: {tokenizer.num_groups} groups of {tokenizer.group_size} need at "
            f"least {tokenizer.fewest}."
        )
    reader = PointReader(count, config.features, normalise=config.frame, nonfinite=config.nonfinite)
    if config.data is None:
        table = shapes().with_readers(points=reader)
    else:
        table = cloud_table(config.data, reader, config.layout)
    train, test = parts_of(table, config.held_out, config.limit)
    augment = Augment(rotate=given(config.rotate), jitter=config.jitter, up=config.up)
    train = train.with_readers(points=replace(reader, augment=augment))
    label = config.label if config.label in table.columns else None
    asked = {name: getattr(config, name) for name in OF_METHOD}
    arguments = {name: value for name, value in asked.items() if value is not None}
    return carry_out(config, Study({"points": tokenizer}, train, test, label, arguments))


def completed(config: Config) -> Config:
    """Flags that were not given take the value that suits the data, and the size."""
    defaults: dict[str, Any] = dict(SHAPES if config.data is None else CLOUDS)
    if config.size == "mini":
        defaults |= SHAPES_MINI if config.data is None else CLOUDS_MINI
        config = replace(config, size="tiny")  # all of whose numbers are given
    if config.method != "point-mae":
        defaults = {name: value for name, value in defaults.items() if name not in OF_METHOD}
    return with_defaults(config, defaults)


def given(value: T | None) -> T:
    assert value is not None  # completed has seen to it
    return value


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
