"""Filled entries against what was held back: measures by hand, neighbours, a whole small run."""

import json
import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimask.cli.fill_scores import (
    Planes,
    hold_back,
    mean_answers,
    nearest_rows,
    score,
    together,
    without,
)
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.layouts.sensor_tiles import write_sensor_tiles
from multimask.datasets.table import Table
from multimask.evaluation.maps import confusion, mean_absolute, mean_iou, psnr, ssim
from multimask.tokens import BadSample

ROOT = Path(__file__).parent.parent


def test_measures_of_maps_by_hand() -> None:
    truth = np.zeros((1, 8, 8))
    truth[0, 0, 0] = np.nan  # what is not known does not count
    answer = np.full((1, 8, 8), 0.1)
    assert psnr(answer, truth, 1.0) == pytest.approx(20)
    assert psnr(truth, truth, 1.0) == math.inf
    assert mean_absolute(answer, truth) == pytest.approx(0.1)
    picture = np.random.default_rng(0).random((2, 12, 12))
    assert together([20.0, math.inf]) == pytest.approx(20 + 10 * math.log10(2))
    assert ssim(picture, picture, 1.0) == pytest.approx(1)
    assert ssim(1 - picture, picture, 1.0) < 0
    # of constants only the means count: (2ab + c1) / (a^2 + b^2 + c1)
    flat = [np.full((1, 9, 9), x) for x in (0.5, 0.3)]
    c1 = 0.01**2
    wanted = (2 * 0.15 + c1) / (0.25 + 0.09 + c1)
    assert ssim(flat[0], flat[1], 1.0) == pytest.approx(wanted)
    assert math.isnan(ssim(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), 1.0))
    with pytest.raises(BadSample, match="found only NaN"):
        psnr(answer, np.full((1, 8, 8), np.nan), 1.0)
    with pytest.raises(BadSample, match=r"expected a map of shape \(1, 8, 8\)"):
        psnr(answer[:, :4], truth, 1.0)


def test_classes_by_hand() -> None:
    truth, answer = np.array([[0, 0, 1, -1]]), np.array([[0, 1, 1, 1]])
    counts = confusion(answer, truth, 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert mean_iou([counts]) == pytest.approx((1 / 2 + 1 / 2) / 2)
    found = score([answer[None].astype(float)], [np.array([[[0, 0, 1, np.nan]]])], 1.0, 3)
    assert found.numbers["accuracy"] == pytest.approx(2 / 3)
    assert found.errors.tolist() == pytest.approx([1 / 3])


def test_a_share_of_entries_is_held_back_and_no_row_loses_all() -> None:
    missing = {
        "a": np.array([False, False, True, True] * 25),
        "b": np.array([False, True, False, True] * 25),
    }
    entries = hold_back(missing, 0.2, seed=0)
    assert len(entries) == 20
    assert all(row % 4 == 0 for row, _ in entries)  # the others have one or none
    assert len({row for row, _ in entries}) == 20
    assert entries == hold_back(missing, 0.2, seed=0) != hold_back(missing, 0.2, seed=1)
    with pytest.raises(ValueError, match="at most 25 of 100 entries can be held back"):
        hold_back(missing, 0.5, seed=0)
    table = Table.of({"id": ["x", "y"], "a": ["1", "2"], "b": ["3", None]}, {"a": None, "b": None})
    assert without(table, [(0, "b")]).missing()["b"].tolist() == [True, True]


def test_the_nearest_row_is_a_training_row_that_has_what_is_asked_for() -> None:
    level = np.array([0.0, 1.0, 5.0, 0.9, 1.1])
    a = np.broadcast_to(level[:, None, None, None], (5, 1, 2, 2)).copy()
    b = 10 * a
    b[3] = np.nan  # lacks it, though nearest
    labels = (a > 2).astype(float)
    there = np.ones(5, bool)
    seen = Planes(
        {"a": a, "b": b, "c": labels}, {"a": there, "b": np.arange(5) != 3, "c": there}, {"c": 2}
    )
    rows = np.array([True, True, True, True, False])
    assert nearest_rows(seen, rows, [(4, "b"), (1, "b"), (2, "c")]) == {
        (4, "b"): 1,
        (1, "b"): 0,
        (2, "c"): 1,
    }
    means = mean_answers(seen, rows)
    assert means["b"].tolist() == [[[20.0, 20.0], [20.0, 20.0]]]
    assert means["c"].tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_the_experiment_holds_back_fills_and_compares(tmp_path: Path) -> None:
    write_sensor_tiles(tmp_path / "tiles", scenes=2, size=64)
    script = runpy.run_path(str(ROOT / "experiments" / "fill.py"))
    config: dict[str, Any] = {
        "data": tmp_path / "tiles",
        "out": tmp_path / "run",
        "modalities": ("s2=spectral", "s1=spectral", "dem=depth-map", "lulc=label-map"),
        "set": ("dem.hole=null", "lulc.classes=3"),
        "epochs": 2, "batch_size": 8, "width": 24, "depth": 1, "heads": 2, "decoder_width": 16,
        "decoder_depth": 1, "decoder_heads": 2, "draws": 2,
    }  # fmt: skip
    report = script["main"](script["Config"](**config))
    assert report["held_back"] == round(0.3 * 4 * 32)
    assert report["not_scored"] == 0
    part = report["held-out rows"]
    for name, measures in (("s2", "PSNR SSIM MAE"), ("lulc", "accuracy mIoU")):
        for who in ("model", "nearest", "mean"):
            assert set(part[name][who]) == set(measures.split())
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == report
    for name in ("s2", "s1", "dem", "lulc"):
        assert (tmp_path / "run" / f"filled_{name}.png").is_file()
        file = next((tmp_path / "run" / "filled" / name).glob("*0016.tif"))
        assert open_tiff_cube(file).geo is not None
    with pytest.raises(ValueError, match="write two or more, each column=kind"):
        script["main"](script["Config"](data=tmp_path, modalities=("rgb",)))
