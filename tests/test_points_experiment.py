"""The points experiment and commands on clouds, used as a person would."""

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimask.cli import main
from multimask.cli.flags import run
from multimask.datasets.layouts.modelnet import pyramid, write_fake

ROOT = Path(__file__).parent.parent
SMALL = "--epochs 2 --batch-size 8 --width 24 --depth 1 --heads 2 --decoder-depth 1"
SMALL = f"{SMALL} --net-width 8 --groups 8 --group-size 6".split()


@pytest.fixture(scope="module")
def experiment() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "experiments" / "points.py"))


def call(experiment: dict[str, Any], *words: str) -> int:
    return run(experiment["main"], experiment["Config"], list(words))


def metrics(out: Path) -> dict[str, Any]:
    return json.loads((out / "metrics.json").read_text())


def test_a_run_with_damaged_files_ends_and_lists_exactly_those(
    experiment: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "meshes", tmp_path / "run"
    write_fake(data, per_class=10)  # three classes: 30 files to train on, 30 to test on
    cut, gone, lying = "chair/train/chair_0003", "table/train/table_0007", "table/test/table_0104"
    (data / f"{cut}.off").write_text(pyramid(2.0, glued=False)[:40])
    (data / f"{gone}.off").write_bytes(b"")
    (data / f"{lying}.off").write_text("OFF\n1000000000000 5 0\n0 0 0\n")
    words = ["--data", str(data), "--out", str(out), *SMALL, "--evaluate", "svm,few-shot"]
    assert call(experiment, *words, "--ways", "3", "--shots", "4") == 0
    damaged = {Path(name).name for name in (cut, gone, lying)}
    found = metrics(out)
    assert {name for name, _ in found["skipped"]} == damaged
    with (out / "log" / "skipped.csv").open() as file:
        assert {row[0] for row in list(csv.reader(file))[1:]} == damaged
    assert (found["samples"], found["test_samples"]) == (30, 30)  # ModelNet's own split
    for what in ("probe", "knn", "svm", "few_shot"):
        for whose in ("", "_random_init"):
            assert 0 <= found[f"{what}_accuracy{whose}"] <= 1
    assert found["effective_ratio"] == 0.5  # 4 of 8 groups: .6 of them, floored
    for name in ("model/config.json", "reconstructions.png", "masks.png", "curves.png"):
        assert (out / name).is_file(), name
    capsys.readouterr()


def test_features_and_blocks_go_through(experiment: dict[str, Any], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    (tmp_path / "clouds").mkdir()
    for number in range(24):
        np.savetxt(tmp_path / f"clouds/{number:02d}.txt", draw.normal(size=(40, 5)))
    words = ["--data", str(tmp_path / "clouds"), "--out", str(tmp_path / "run"), *SMALL]
    more = ["--features", "c3,c4", "--points", "32", "--frame", "centre", "--norm", "l1"]
    rules = ["--masker", "nearest-block", "--rotate", "any", "--embed-visible-only"]
    assert call(experiment, *words, *more, *rules) == 0
    found = metrics(tmp_path / "run")
    assert found["probe_accuracy"] is None  # no labels
    assert np.isfinite(found["loss_last"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--points", "7"], "--points 7: 8 groups of 6 need at least 8"),
        (["--data", "nowhere"], "nowhere: expected a folder"),
        (["--data", ".", "--layout", "shapenet55"], "ShapeNet-55"),
        (["--decoder-width", "16"], "takes no decoder_width"),
        (["--masker", "grid"], "has no lattice"),
        (["--method", "mae", "--norm", "l1"], "takes no net_width, norm"),
    ],
)
def test_mistakes_are_one_sentence(
    experiment: dict[str, Any],
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(experiment["main"].__globals__, "shapes", few_shapes)
    assert call(experiment, "--out", "run", *SMALL, *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def few_shapes() -> object:
    from multimask.datasets.synthetic_points import shapes

    return shapes(20, 20, 64)


@pytest.mark.parametrize(("masker", "visible"), [("random", 3), ("nearest-block", 3)])
def test_masks_of_a_cloud_are_drawn_with_counts(
    masker: str, visible: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "a.off", tmp_path / "masks.png"
    file.write_text(pyramid(2.0, glued=True))
    words = ["--kind", "points", "--data", str(file), "--set", "num_groups=8,group_size=4"]
    assert main(["masks", *words, "--masker", masker, "--ratio", "0.6", "--out", str(out)]) == 0
    assert f"a.off: {visible} visible, {8 - visible} hidden of 8 tokens" in capsys.readouterr().out
    assert out.is_file()


def test_an_array_is_one_cloud_or_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--kind", "points", "--set", "num_groups=8,group_size=4", "--ratio", "0.6"]
    for count, shape in ((1, (150, 3)), (3, (3, 150, 3))):
        np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=shape))
        file = ["--data", str(tmp_path / "a.npy"), "--out", str(tmp_path / "masks.png")]
        assert main(["masks", *words, *file, "--counting", "hidden"]) == 0
        # int(.6 * 8) are hidden, as Point-MAE counts
        assert capsys.readouterr().out.count("4 visible, 4 hidden of 8 tokens") == count


@pytest.mark.parametrize("masker", ["block", "grid", "tube"])
def test_maskers_for_lattices_say_so(
    masker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.off").write_text(pyramid(2.0, glued=True))
    words = [
        "--kind",
        "points",
        "--data",
        str(tmp_path / "a.off"),
        "--out",
        str(tmp_path / "m.png"),
    ]
    assert main(["masks", *words, "--masker", masker]) == 2
    assert "'points' has no lattice" in capsys.readouterr().err
