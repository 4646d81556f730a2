"""The video experiment as a person uses it: own clips, damaged clips, pictures that move."""

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from multimask.cli import main
from multimask.cli.flags import run
from multimask.datasets.formats.video_write import write_clip
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.layouts.frame_folders import frame_folders
from multimask.datasets.table import Table
from multimask.datasets.transforms import MultiScaleCrop
from multimask.modalities.video import Tubelets
from multimask.tokens import BadSample

ROOT = Path(__file__).parents[1]
SMALL = "--frames 4 --stride 1 --image-size 32x48 --patch 16 --epochs 2 --batch-size 8 --lr 1e-3"
SMALL += " --width 24 --depth 1 --heads 2 --decoder-width 16 --decoder-depth 1 --decoder-heads 2"


def experiment(*words: str) -> int:
    script = runpy.run_path(str(ROOT / "experiments" / "video.py"))
    return run(script["main"], script["Config"], list(words))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 20 clips, a bright stripe going right or left; 2 files, 5 %, are damaged."""
    folder = tmp_path_factory.mktemp("clips")
    for label, way in (("right", 1), ("left", -1)):
        (folder / label).mkdir()
        for number in range(20):
            write_clip(folder / label / f"{number:02d}.mp4", stripes(number, way), 12)
    whole = (folder / "right/03.mp4").read_bytes()
    (folder / "right/03.mp4").write_bytes(whole[: len(whole) // 20])
    (folder / "left/07.mp4").write_bytes(b"no video at all")
    return folder


DAMAGED = ["left/07.mp4", "right/03.mp4"]


def stripes(number: int, way: int, count: int = 6) -> list[np.ndarray]:
    frames = np.full((count, 48, 64, 3), 40, np.uint8)
    for time in range(count):
        left = (7 * number + 6 * way * time) % 64
        frames[time, :, left : left + 8] = 220
    return list(frames)


@pytest.fixture(scope="module")
def finished(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "clips"
    words = ["--data", str(clips), "--out", str(out), *SMALL.split()]
    assert experiment(*words, "--evaluate", "svm,few-shot", "--ways", "2", "--shots", "2") == 0
    return out


def test_a_table_with_damaged_files_trains_to_the_end_and_lists_exactly_these(
    finished: Path,
) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["epochs"] == 2
    assert sorted({name for name, _ in metrics["skipped"]}) == DAMAGED
    with (finished / "log" / "skipped.csv").open() as file:
        assert sorted({row[0] for row in csv.reader(file)} - {"id"}) == DAMAGED
    problems = {}
    for part in ("train", "test"):
        with (finished / f"{part}.csv").open() as file:
            problems |= {row["id"]: row["video.problem"] for row in csv.DictReader(file)}
    assert len(problems) == 40
    assert sorted(name for name, problem in problems.items() if problem) == DAMAGED


def test_an_experiment_shows_and_measures(finished: Path) -> None:
    for name in ("reconstructions.png", "masks.png", "curves.png", "model/config.json"):
        assert (finished / name).is_file(), name
    with Image.open(finished / "reconstructions.gif") as picture:
        assert (picture.format, getattr(picture, "n_frames", 1)) == ("GIF", 4)
        assert picture.size == (3 * 48 * 4 + 2 * 2, 4 * 32 * 4 + 3 * 2)  # original, visible, answer
    metrics = json.loads((finished / "metrics.json").read_text())
    for name in ("probe", "knn", "svm", "few_shot"):
        assert 0 <= metrics[f"{name}_accuracy"] <= 1
        assert 0 <= metrics[f"{name}_accuracy_random_init"] <= 1


def test_what_was_found_out_is_a_listing_to_go_on_with(finished: Path, clips: Path) -> None:
    table = Table.open(finished / "train.csv", "video", VideoReader())
    facts = table._reported("video", 0)
    path = table.columns["video"][0]
    assert facts == {k: v for k, v in VideoReader().probe(path).items() if v is not None}
    assert table.columns["label"][0] == Path(path).parent.name


def test_classes_without_training_rows_are_said_before_training(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "clips.csv"
    rows = [f"{clips}/right/0{n}.mp4,right,train" for n in (0, 1, 2, 4, 5, 6, 7, 8)]
    listing.write_text("\n".join(["file,label,split", *rows, f"{clips}/left/00.mp4,left,test"]))
    words = ["--data", str(listing), "--out", str(tmp_path / "run"), *SMALL.split()]
    assert experiment(*words, "--method", "videomae-v2", "--sampling", "uniform") == 0
    assert "the training rows lack left" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["probe_accuracy"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data", "nowhere"], "nothing there"),
        (["--layout", "ucf7"], "layouts are ucf101"),
        (["--image-size", "40", "--patch", "16"], "not divisible into 2x16x16 tubelets"),
        (["--patch", "8x8x8"], "--patch: write one side"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str], told: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words if "--data" in words else [*words, "--data", str(clips)]
    assert experiment(*given, "--out", str(tmp_path)) == 2
    assert told in capsys.readouterr().err


# --- folders of frames, crops, readers by kind ----------------------------------------------------


def test_folders_of_frames_are_clips_with_labels(tmp_path: Path) -> None:
    for name in ("train/walk/a", "train/run/b", "test/walk/c"):
        (tmp_path / name).mkdir(parents=True)
        for number, frame in enumerate(stripes(3, 1)):
            Image.fromarray(frame).save(tmp_path / name / f"{number}.jpg")
    table = frame_folders(tmp_path, VideoReader.fitted(Tubelets(4, (32, 48), 16)))
    assert list(table.columns["label"]) == ["walk", "run", "walk"]
    assert dict(zip(table.columns["id"], table.columns["split"], strict=True)) == {
        "test/walk/c": "test",
        "train/run/b": "train",
        "train/walk/a": "train",
    }
    assert table[0]["video"]["frames"].shape == (4, 3, 32, 48)
    with pytest.raises(ValueError, match="name the folder above it"):
        frame_folders(tmp_path / "train/walk/a")
    with pytest.raises(ValueError, match="found none"):
        frame_folders(tmp_path / "nowhere")


def test_multi_scale_crops_are_the_published_boxes() -> None:
    crop, generator = MultiScaleCrop((20, 30)), torch.Generator().manual_seed(0)
    drawn = [crop(100, 160, generator) for _ in range(4000)]
    sides = [100, 87, 75, 66]
    shapes = {(box.height, box.width) for box in drawn}
    assert shapes == {
        (a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1
    }
    square = [(box.top, box.left) for box in drawn if (box.height, box.width) == (66, 66)]
    quarters = {(8 * down, 23 * right) for down in range(5) for right in range(5)}
    assert len(set(square)) == 13
    assert set(square) <= quarters
    assert all(box.size == (20, 30) and not box.flip for box in drawn)
    assert crop(100, 160).height == 100  # without a generator: the largest box, centred
    with pytest.raises(ValueError, match="shares above 0"):
        MultiScaleCrop(16, scales=(1.5,))


def test_files_of_every_trouble_are_named(clips: Path, tmp_path: Path) -> None:
    """By one sentence each; nothing hangs, and no frame is made up."""
    good = (clips / "right/00.mp4").read_bytes()
    made: dict[str, Any] = {"empty.mp4": b"", "text.webm": b"hello", "cut.mp4": good[:200]}
    made["half.avi"] = good[: len(good) // 2]
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.mkv").mkdir()
    for name in (*made, "folder.mkv", "gone.mov"):
        with pytest.raises(BadSample) as caught:
            VideoReader().read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "renamed.gif").write_bytes(good)  # content decides, not the name
    assert VideoReader().read(tmp_path / "renamed.gif")["frames"].shape[0] == 16


@pytest.mark.parametrize(
    ("masker", "counts"),
    [
        ("--masker random --ratio 0.75", "16 visible, 48 hidden of 64 tokens (75.0%); 48 decoded"),
        ("--masker tube --ratio 0.9", "4 visible, 60 hidden of 64 tokens (93.8%); 60 decoded"),
        ("--masker slab --ratio 0.5", "32 visible, 32 hidden of 64 tokens (50.0%); 32 decoded"),
        ("--masker block --ratio 0.6", "25 visible, 39 hidden of 64 tokens (60.9%); 39 decoded"),
        ("--masker running-cell --ratio 0.5", "32 visible, 32 hidden of 64 tokens (50.0%)"),
        ("--method videomae", "8 visible, 56 hidden of 64 tokens (87.5%); 56 decoded, 56 scored"),
        (
            "--method videomae-v2",
            "8 visible, 56 hidden of 64 tokens (87.5%); 32 decoded, 28 scored",
        ),
    ],
)
def test_every_masker_is_drawn_on_a_file_with_its_counts(
    masker: str, counts: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["masks", "--kind", "video", "--data", str(clips / "right/00.mp4"), *masker.split()]
    words += ["--set", "frames=8,size=32,patch=8", "--out", str(tmp_path / "masks.png")]
    assert main(words) == 0
    assert f"00.mp4: {counts}" in capsys.readouterr().out
    with Image.open(tmp_path / "masks.png") as picture:
        assert np.asarray(picture).std() > 5
