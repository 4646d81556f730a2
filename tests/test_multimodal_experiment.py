"""The experiment of aligned maps as a person runs it: embedded photographs, files, mistakes."""

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from multimask.checkpoints import load
from multimask.cli.flags import run
from multimask.datasets.photograph_layers import photograph_layers
from multimask.datasets.table import Table
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modalities.spectral import SpectralPatches

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "experiments" / "multimodal.py"))
SMALL: dict[str, Any] = {
    "epochs": 1, "batch_size": 8, "width": 24, "depth": 1, "heads": 2, "decoder_width": 16,
    "decoder_heads": 2, "image_size": 16, "patch": 8,
}  # fmt: skip


def carried_out(**flags: Any) -> dict[str, Any]:
    return SCRIPT["main"](SCRIPT["Config"](**{**SMALL, **flags}))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A listing of pictures, depth and labels, some missing."""
    folder = tmp_path_factory.mktemp("rooms")
    rng = np.random.default_rng(0)
    with (folder / "rooms.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "rgb", "depth", "labels", "label"])
        for number in range(24):
            cells = [f"{kind}{number}.png" for kind in ("rgb", "depth", "labels")]
            level = rng.integers(40, 200)
            Image.fromarray(rng.integers(0, level, (20, 20, 3), "u1")).save(folder / cells[0])
            deep = rng.integers(1, 9000, (20, 20)).astype("u2")
            Image.fromarray(deep).save(folder / cells[1])
            Image.fromarray(rng.integers(0, 3, (20, 20), "u1")).save(folder / cells[2])
            if number % 4 == 0:
                cells[1] = ""
            rows.writerow([number, *cells, "ab"[number % 2]])
    return folder / "rooms.csv"


def test_crops_of_a_photograph_share_no_pixel_and_lie_on_each_other() -> None:
    table = Table.open(photograph_layers(16, train=24, test=12))
    assert list(table.readers) == ["grey", "colour", "edges", "materials"]
    assert len(table.where(split="test")) == 12
    sample = table[0]
    assert (sample["grey"].shape, sample["colour"].shape) == ((1, 16, 16), (3, 16, 16))
    assert sample["edges"].shape == sample["materials"].shape == (16, 16)
    luma = np.array([0.299, 0.587, 0.114])[:, None, None]  # taken out of the colours
    assert abs(float((sample["colour"].numpy() * luma).sum(axis=0).mean()) - 128) < 3
    assert photograph_layers(16, train=24, test=12).is_file()  # from the cache


def test_embedded_photographs_leave_a_whole_run_folder(tmp_path: Path) -> None:
    metrics = carried_out(out=tmp_path, limit=24)
    for name in ("reconstructions.png", "masks.png", "crossmodal.png", "model/config.json"):
        assert (tmp_path / name).is_file(), name
    written = json.loads((tmp_path / "metrics.json").read_text())["crossmodal"]
    assert written == metrics["crossmodal"]
    assert set(written) == {"colour", "edges", "grey", "materials"}
    for found in written.values():
        assert found["items"] == 24
        for control in ("of_mean", "shuffled"):
            low, high = found[f"{control}_interval"]
            assert low <= found[control] - found["error"] <= high


def test_columns_of_files_become_modalities_of_their_kinds(rooms: Path, tmp_path: Path) -> None:
    metrics = carried_out(
        data=rooms, modalities=("rgb=image", "depth=depth-map", "labels=label-map"),
        set=("depth.unit=0.001",), out=tmp_path, drop=0.5,
        aligned=("rgb", "depth", "labels"),
    )  # fmt: skip
    assert metrics["samples"] + metrics["test_samples"] == 24
    assert set(metrics["crossmodal"]) == {"rgb", "depth", "labels"}
    made = load(tmp_path / "model")
    rgb, depth, labels = (made.tokenizers[name] for name in ("rgb", "depth", "labels"))
    assert isinstance(rgb, ImagePatches)
    assert isinstance(depth, DepthMaps)
    assert isinstance(labels, LabelMaps)
    assert np.mean(rgb.mean) < 0.5  # as measured
    assert depth.unit == 0.001
    assert labels.classes == 3  # as found
    assert made.seen is not None


def test_maps_beside_bands_show_the_same_random_windows() -> None:
    places = torch.arange(2 * 12 * 20).view(2, 1, 12, 20).float()
    table = Table.from_arrays(modalities=["bands", "dem"], bands=places, dem=places[:, 0])
    tokenizers = {"bands": SpectralPatches(8, 4, 1, wavelengths=(490.0,)),
                  "dem": DepthMaps(8, 4, hole=None)}  # fmt: skip
    kinds = {"bands": "spectral", "dem": "depth-map"}
    made = SCRIPT["augmented"](table, kinds, tokenizers, SCRIPT["Config"]())
    drawn = [made.draw(1, torch.Generator().manual_seed(seed)) for seed in range(8)]
    assert all(torch.equal(row["bands"]["pixels"][0], row["dem"]) for row in drawn)
    assert len({float(row["dem"][0, 0]) for row in drawn}) > 4


@pytest.mark.parametrize("method", ["phg-mae", "mae"])
def test_other_methods_take_the_same_maps(method: str, tmp_path: Path) -> None:
    metrics = carried_out(
        method=method, out=tmp_path, limit=16, modalities=("grey", "materials"), image_size=16
    )
    assert set(metrics["crossmodal"]) == {"grey", "materials"}


def test_a_network_that_answers_and_does_not_encode_is_not_probed(
    rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(rooms), "--modalities", "rgb=image,depth=depth-map", "--out",
             str(tmp_path), "--method", "phg-mae-conv", "--width", "4", "--image-size", "16",
             "--epochs", "1", "--batch-size", "8", "--online-knn"]  # fmt: skip
    assert run(SCRIPT["main"], SCRIPT["Config"], [*words, "--seeds", "2"]) == 0
    assert capsys.readouterr().out.count("'phg-mae-conv' answers hidden tokens and has no") == 1
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["probe_accuracy"] is metrics["knn_accuracy"] is None
    assert set(metrics["crossmodal"]) == {"rgb", "depth"}
    assert len(metrics["crossmodal"]["rgb"]["error_by_seed"]) == 2
    assert run(SCRIPT["main"], SCRIPT["Config"], [*words, "--evaluate", "svm"]) == 2
    assert "--evaluate svm: method 'phg-mae-conv'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--modalities", "sound"], "embedded maps are grey, colour, edges, materials"),
        (["--drop", "1.5"], "--drop 1.5: a chance"),
        (["--data", "ROOMS"], "--modalities: say which columns"),
        (["--data", "ROOMS", "--modalities", "rgb"], "write column=kind"),
        (["--data", "ROOMS", "--modalities", "rgb=picture"], "no modalities plug-in is named"),
        (["--data", "ROOMS", "--modalities", "lidar=points"], "'lidar'"),
        (["--method", "mae", "--drop", "0.5"], "--drop"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], told: str, rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(rooms) if word == "ROOMS" else word for word in words]
    assert run(SCRIPT["main"], SCRIPT["Config"], [*words, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
