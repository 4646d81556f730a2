"""Masked pre-training on clips: your videos or folders of frames, or made ones.

python experiments/video.py --data CLIPS --out runs/clips
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from multimask.checkpoints import load
from multimask.cli.data import as_batch, parts_of
from multimask.cli.experiment import RunFlags, Study, build_recipe, carry_out
from multimask.cli.flags import run
from multimask.cli.study import SHAPE, sides, with_defaults
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.frame_sampling import Every, FrameSampler, Strided, Uniform
from multimask.datasets.layouts.frame_folders import frame_folders
from multimask.datasets.layouts.kinetics import kinetics, listed_clips
from multimask.datasets.layouts.something_something import something_v1, something_v2
from multimask.datasets.layouts.ucf101 import ucf101
from multimask.datasets.store import open_store
from multimask.datasets.synthetic_motion import moving_shapes
from multimask.datasets.synthetic_video import moving_cameras
from multimask.datasets.table import Table
from multimask.datasets.transforms import MultiScaleCrop, ResizeCrop, Transform
from multimask.modalities.video import Tubelets
from multimask.modalities.video_pictures import reconstructed_clips, save_gif
from multimask.nn.positions import SinCos
from multimask.tokens import Step

LAYOUTS: dict[str, Callable[..., Table]] = {
    "ucf101": ucf101,
    "kinetics": kinetics,
    "something-v1": something_v1,
    "something-v2": something_v2,
    "lines": listed_clips,
    "frame-folders": frame_folders,
}
ANIMATED = 4  # clips in reconstructions.gif


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Pre-train a masked autoencoder on clips and show what it learned."""

    out: Annotated[Path, "run folder"] = Path("runs/video")
    method: Annotated[str, "pre-training method: videomae, videomae-v2, mae"] = "videomae"
    epochs: Annotated[int, "passes over the training rows; 0: 120, made clips 32"] = 0
    batch_size: Annotated[int, "samples an optimiser step; 0: 16, made clips 32"] = 0
    made: Annotated[
        Literal["shapes", "cameras"],
        "clips made where no --data are given: one shape that moves, or a camera over textures "
        "(harder than two cores learn in minutes)",
    ] = "shapes"
    layout: Annotated[
        str | None, f"how --data is laid out, if as published: {', '.join(LAYOUTS)}"
    ] = None
    frames: Annotated[int | None, "frames of a clip; default 16, made clips 8"] = None
    stride: Annotated[int | None, "take every n-th frame; default 4, made clips 1"] = None
    sampling: Annotated[
        Literal["strided", "uniform"], "a window of frames, or frames spread over the whole file"
    ] = "strided"
    image_size: Annotated[int | tuple[int, ...] | None, "pixels; default 96, made clips 32"] = None
    patch: Annotated[int | tuple[int, ...] | None, "pixels of a tubelet; 16, made clips 8"] = None
    grey: Annotated[bool | None, "luminance only; as made clips are, if not told otherwise"] = None
    tubelet: Annotated[int | None, "frames of a tubelet; default 2, made clips 1"] = None
    rate: Annotated[float | None, "frames a second of folders of frames, which do not say"] = None
    decord: Annotated[
        bool, "decord reads runs of neighbouring frames of files that it was found to read rightly"
    ] = False
    held_out: Annotated[float, "share held out for testing where the data name no split"] = 0.25
    split_by: Annotated[str | None, "column (subject, source) whose values stay together"] = None
    online_knn: Annotated[bool, "kNN accuracy after every epoch; reads all rows for it"] = False


# Made clips: a model that two cores train in minutes (8 x 4 x 4 tubelets). Tubelets of one frame
# show no motion: what random weights would make of two frames in one tells nothing of what was
# learned. Most show plain noise, so plain values are regressed: normalised, the noise would be all
# that is asked for. Tubes of 16 places would leave one or two to see; half hidden at random is
# learned soonest; the shallow decoder leaves motion to the encoder.
MADE: dict[str, Any] = {
    "epochs": 32,
    "batch_size": 32,
    "frames": 8,
    "stride": 1,
    "image_size": 32,
    "patch": 8,
    "tubelet": 1,
    "grey": True,
    "width": 64,
    "depth": 4,
    "heads": 4,
    "decoder_width": 48,
    "decoder_depth": 1,
    "decoder_heads": 4,
    "masker": "random",
    "ratio": 0.5,
    "normalise": False,
    "lr": 2e-3,
    "warmup": 0.1,
}
# files: 8 x 6 x 6 tubelets; with a GPU say --size base --image-size 224 --batch-size 256
FILES: dict[str, Any] = {
    "epochs": 120,
    "batch_size": 16,
    "frames": 16,
    "stride": 4,
    "image_size": 96,
    "patch": 16,
    "tubelet": 2,
}
GREY: dict[str, Any] = {"channels": 1, "mean": 0.449, "std": 0.226}  # ImageNet's, in luminance


def main(config: Config) -> dict[str, Any]:
    config = completed(config)
    tokenizer = Tubelets(
        config.frames or 16,
        sides(config.image_size, "--image-size"),
        sides(config.patch, "--patch"),
        config.tubelet or 2,
        **(GREY if config.grey else {}),
    )
    train, test = parts(config, tokenizer)
    label = config.label if config.label in train.columns else None
    arguments = {"position": SinCos} if config.data is None and small(config) else {}
    study = Study({"video": tokenizer}, train, test, label, arguments)
    metrics = carry_out(config, study)
    animate(config, study)
    return metrics


def completed(config: Config) -> Config:
    """Flags that were not given take the value that suits the data; with another method or a size
    that was asked for, not the model's numbers."""
    defaults = MADE if config.data is None else FILES
    if not small(config):
        defaults = {name: value for name, value in defaults.items() if name not in SHAPE}
    return with_defaults(config, defaults)


def small(config: Config) -> bool:
    """Whether the size of the model was left to the data."""
    return config.size == "tiny" and config.method in ("videomae", "videomae-v2")


def parts(config: Config, tokenizer: Tubelets) -> tuple[Table, Table]:
    """Training rows, cropped at random where files are the user's, and test rows."""
    frames = tokenizer.frames
    sampler: FrameSampler = Strided(frames, config.stride or 1)
    if config.sampling == "uniform":
        sampler = Uniform(frames)
    size = sides(config.image_size, "--image-size")
    crops: Transform = MultiScaleCrop(size)
    middle = ResizeCrop(size, max(MultiScaleCrop(size).scales), "bilinear")
    if config.data is None and config.made == "shapes":
        crops = middle = ResizeCrop(size)  # they come at this size
    elif config.data is None:
        crops, middle = MultiScaleCrop(size, scales=(0.5,)), ResizeCrop(size, 0.5, "bilinear")
    plain = VideoReader(sampler, middle, config.rate, decord=config.decord, grey=bool(config.grey))
    if config.data is None:
        table = packed(config.made, frames * (config.stride or 1), max(size), plain)
    else:
        table = opened(config.data, config.layout, plain)
    train, test = split(table.with_readers(video=plain), config)
    train, test = checked(train, config, "train"), checked(test, config, "test")
    return train.with_readers(video=replace(plain, transform=crops)), test


def packed(made: str, frames: int, size: int, reader: VideoReader) -> Table:
    """Made clips, each decoded once: the model is so small that decoding would take most of the
    time. They are longer or larger than samples, which start or are cut anywhere."""
    if made == "shapes":
        table = moving_shapes(frames=2 * frames, size=size)
    else:
        table = moving_cameras(frames=frames, size=2 * size)
    whole = VideoReader(Every(), grey=reader.grey)
    store = Path(table.root) / ("grey.zarr" if reader.grey else "colour.zarr")
    return open_store(table.with_readers(video=whole).pack(store).root, reader)


def opened(path: Path, layout: str | None, reader: VideoReader) -> Table:
    if layout is None:
        return Table.open(path, modality="video", reader=reader)
    if layout not in LAYOUTS:
        raise ValueError(f"--layout {layout}: layouts are {', '.join(LAYOUTS)}.")
    return LAYOUTS[layout](path, reader=reader)


def split(table: Table, config: Config) -> tuple[Table, Table]:
    if config.split_by is None:
        return parts_of(table, config.held_out, config.limit)
    train, test = table.split_off(config.held_out, seed=0, by=config.split_by)
    return (
        (train, test)
        if config.limit is None
        else (train.head(config.limit), test.head(config.limit))
    )


def checked(table: Table, config: Config, part: str) -> Table:
    """Every file is asked about once, before anything is trained, unless the table says already;
    what was found is kept in the run folder, as a listing that --data takes."""
    if "video.access" in table.columns:
        return table
    bad, table = table.check(workers=max(1, config.workers))
    table.write_csv(config.out / f"{part}.csv")
    for name, reason in bad:
        print(f"cannot be read: {name}: {reason}")
    return table


def animate(config: Config, study: Study) -> None:
    """Moving reconstructions of some held-out clips, by the model of the first seed."""
    model = load(config.out / "model")
    batch, _ = as_batch(study.test, study.modalities, most=ANIMATED)
    masker = build_recipe(config, study.modalities, study.method_arguments).objective.masker
    file = config.out / "reconstructions.gif"
    save_gif(file, reconstructed_clips(model, batch, masker, Step(config.seed)), seconds=1.5)
    true = " (true statistics of tubelets put back)" if config.normalise is not False else ""
    print(f"moving            {file}{true}")


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
