"""`multimask segment`: from pictures and stored maps to a saved dense head and its scores."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multimask import MaskedModel
from multimask.cli import main
from multimask.finetuning import DenseClassifier
from multimask.modalities.image import ImagePatches

WORDS = ["--epochs", "2", "--batch-size", "4", "--head", "linear", "--held-out", "0.25"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 16 pixels, and 12 bright or dark halves of 24 x 32 with stored numbers 0, 1, 3."""
    root = tmp_path_factory.mktemp("segment")
    torch.manual_seed(0)
    tokenizers = {"image": ImagePatches(16, patch=4, channels=1)}
    MaskedModel(tokenizers, width=24, depth=2, heads=2).save(root / "model")
    numbers = np.random.default_rng(0)
    lines = ["picture,regions"]
    for index in range(12):
        regions = np.full((24, 32), 1, np.uint8)
        regions[:, int(numbers.integers(8, 24)) :] = 3
        regions[:4] = 0
        grey = np.where(regions == 3, 200, 50) + numbers.integers(0, 20, regions.shape)
        Image.fromarray(grey.astype(np.uint8)).save(root / f"{index}.png")
        Image.fromarray(regions).save(root / f"{index}_map.png")
        lines.append(f"{index}.png,{index}_map.png")
    lines.append("0_map.png,")  # a picture without a map
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root


def words(folder: Path, out: Path, *more: str) -> list[str]:
    made = ["segment", "--model", str(folder / "model"), "--data", str(folder / "table.csv")]
    made += ["--column", "picture", "--map", "regions", "--out", str(out)]
    return [*made, *WORDS, *more]


def test_it_leaves_a_head_scores_and_a_picture(folder: Path, tmp_path: Path) -> None:
    more = ["--numbers", "1,3", "--seeds", "2", "--image-size", "24x32"]
    assert main(words(folder, tmp_path, *more)) == 0
    made = json.loads((tmp_path / "metrics.json").read_text())
    assert made["train_rows"] + made["test_rows"] == 12  # a row without a map is left out
    assert len(made["mean_iou_by_seed"]) == len(made["mean_iou_random_init_by_seed"]) == 2
    assert 0 <= made["mean_iou"] <= 1
    assert made["row_gain_interval"][0] <= made["row_gain"] <= made["row_gain_interval"][1]
    again = DenseClassifier.load(tmp_path / "model")
    assert (again.kind, again.classes, again.cells) == ("linear", 2, (24, 32))
    assert np.asarray(Image.open(tmp_path / "segmentation.png")).ndim == 3


def test_a_saved_head_names_what_it_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MaskedModel({"image": ImagePatches(16, 4, channels=1)}, width=24, depth=4, heads=2)
    made = DenseClassifier(model, 3).eval()
    made.save(tmp_path)
    again = DenseClassifier.load(tmp_path)
    wanted, found = made.state_dict(), again.state_dict()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    (tmp_path / "dense.json").write_text("{}")
    with pytest.raises(ValueError, match="expected classes, head"):
        DenseClassifier.load(tmp_path)
    (tmp_path / "dense.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no dense\.json"):
        DenseClassifier.load(tmp_path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--numbers", "1"], "at least two classes"),
        (["--numbers", "1,3", "--classes", "2"], "not both"),
        (["--numbers", "1,b"], "write 1,2\\+3"),
        (["--classes", "2"], r"expected classes 0\.\.1 or 255, found \[3\]"),
    ],
)
def test_maps_and_classes_that_do_not_go_together(
    folder: Path,
    tmp_path: Path,
    more: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words(folder, tmp_path, *more)) == 2
    assert re.search(said, capsys.readouterr().err)
