"""The MRI experiment and the commands on volumes, as a person would use them."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from multimask import load
from multimask.cli import main as command
from multimask.cli.flags import from_command_line
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.layouts import brats
from multimask.datasets.synthetic_volume import heads, write_brains
from multimask.datasets.table import Table
from multimask.datasets.volumes import new_volume
from multimask.modalities.volume import VolumePatches
from multimask.testing import check_modality

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "mri.py"
SMALL = "--epochs 2 --batch-size 4 --width 24 --depth 2 --heads 2 --decoder-width 24"
SMALL = f"{SMALL} --decoder-heads 2 --volume-size 16 --patch 4 --segment-epochs 2".split()
MASKERS = ("random", "block", "grid", "tube", "slab", "running-cell")

Carry = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def carried() -> Carry:
    """Runs the experiment with these flags and returns its metrics."""
    script = runpy.run_path(str(EXPERIMENT))

    def carry(*words: str) -> dict[str, Any]:
        return script["main"](from_command_line(script["Config"], [*SMALL, *words]))

    return carry


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CSV of 20 heads of 16^3 voxels."""
    return write_brains(tmp_path_factory.mktemp("heads"), 20, size=16, missing=0.0)


@pytest.fixture(scope="module")
def finished(carried: Carry, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mri"
    words = ("--data", str(made), "--modalities", "flair", "--segment", "seg")
    carried(*words, "--out", str(out))
    return out


def image(path: Path) -> Any:
    return nibabel.load(path)


def test_a_run_folder_has_pictures_numbers_and_dice(finished: Path) -> None:
    for name in ("model/config.json", "masks.png", "reconstructions.png", "checkpoints/last.ckpt"):
        assert (finished / name).is_file(), name
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["samples"] == 12
    assert metrics["dice_test_volumes"] == 8
    assert len(metrics["dice_by_class"]) == 2  # oedema, lesion
    assert 0 <= metrics["dice_random_init"] <= 1
    assert metrics["probe_accuracy_raw_values"] is not None


def test_reconstructions_lie_on_their_scans(finished: Path, made: Path) -> None:
    written = sorted((finished / "nifti").iterdir())
    assert len(written) == 4
    for file in written:
        subject = file.name.removesuffix("_flair.nii.gz")
        source, answer = image(made.parent / subject / "flair.nii.gz"), image(file)
        np.testing.assert_allclose(answer.affine, source.affine, atol=1e-5)
        np.testing.assert_allclose(answer.header.get_zooms(), source.header.get_zooms())
        assert nibabel.aff2axcodes(answer.affine) == nibabel.aff2axcodes(source.affine)
        same = np.isclose(answer.get_fdata(), source.get_fdata(), atol=0.05).mean()
        assert 0.2 < same < 0.35  # the visible quarter is true


def test_a_scan_turned_and_oblique_comes_back_where_it_lay(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    affine = np.array([[-3.0, 0.2, 0, 40], [0.3, 0, 2.5, -30], [0, -4, 0.1, 5], [0, 0, 0, 1]])
    array = np.random.default_rng(0).normal(500, 90, (14, 16, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "scan.nii")
    words = ["--model", str(finished / "model"), "--data", str(tmp_path / "scan.nii")]
    words += ["--out", str(tmp_path / "a.png"), "--files", str(tmp_path / "made")]
    assert command(["reconstruct", *words]) == 0, capsys.readouterr().err
    (file,) = (tmp_path / "made").iterdir()
    answer = image(file)
    np.testing.assert_allclose(answer.affine, affine, atol=1e-5)
    assert answer.shape == array.shape
    assert nibabel.aff2axcodes(answer.affine) == ("L", "I", "A")
    same = np.isclose(answer.get_fdata(), array, atol=0.05).mean()
    assert 0.2 < same < 0.6  # visible patches and those at the border that are no tokens


def test_several_contrasts_are_several_modalities(
    carried: Carry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTIMASK_CACHE", str(tmp_path / "cache"))
    metrics = carried(
        "--modalities", "t1ce,flair", "--subjects", "12", "--out", str(tmp_path / "o")
    )
    assert metrics["test_samples"] == 6
    assert len(list((tmp_path / "o/nifti").iterdir())) == 8
    listing = heads(12, ("t1ce", "flair"), size=16, test=0.5)
    assert listing.is_relative_to(tmp_path / "cache")


def test_a_public_layout_with_missing_scans_and_maps(carried: Carry, tmp_path: Path) -> None:
    brats.write_fake(tmp_path / "brats", cases=8)
    words = ("--layout", "brats", "--modalities", "t1,t2", "--segment", "seg", "--volume-size", "8")
    metrics = carried("--data", str(tmp_path / "brats"), *words, "--out", str(tmp_path / "out"))
    assert not metrics["skipped"]
    assert metrics["dice_test_volumes"] == 2
    assert len(metrics["dice_by_class"]) == 3


def test_scans_that_subjects_lack_are_filled_on_the_grid_of_their_others(
    carried: Carry, tmp_path: Path
) -> None:
    listing = write_brains(tmp_path / "brains", subjects=8, seed=0, size=16)
    names = ("t1", "t1ce", "t2", "flair")
    words = ("--modalities", ",".join(names), "--label", "none", "--out", str(tmp_path / "o"))
    carried("--data", str(listing), *words)
    assert load(tmp_path / "o/model").num_tokens == dict.fromkeys(names, 64)
    table = Table.from_csv(listing, names, VolumeReader())
    gaps = {(row, name) for name, gone in table.missing().items() for row in np.flatnonzero(gone)}
    filled = Table.from_csv(tmp_path / "o/filled/table.csv", names, VolumeReader())
    assert gaps
    assert not any(gone.any() for gone in filled.missing().values())
    for row, name in gaps:
        other = next(n for n in names if (row, n) not in gaps)
        made, beside = (nibabel.load(filled.source(n, int(row))) for n in (name, other))
        np.testing.assert_allclose(made.affine, beside.affine)  # pyright: ignore
        assert made.shape == beside.shape  # pyright: ignore[reportAttributeAccessIssue]


def test_damaged_files_are_listed_and_nothing_else(carried: Carry, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for index in range(40):
        sides = random.integers(6, 17, 3)  # most are smaller than the model's box
        array = random.normal(100, 20, sides).astype(np.float32)
        affine = np.diag([*random.uniform(0.5, 4, 3), 1])
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"scans/{index:02d}.nii.gz")
    cut, huge = tmp_path / "scans/07.nii.gz", tmp_path / "scans/31.nii.gz"
    cut.write_bytes(cut.read_bytes()[:900])
    huge.write_bytes(b"not a scan")
    metrics = carried("--data", str(tmp_path / "scans"), "--out", str(tmp_path / "out"))
    assert {name for name, _ in metrics["skipped"]} == {"07.nii.gz", "31.nii.gz"}
    assert metrics["epochs"] == 2
    listed = (tmp_path / "out/log/skipped.csv").read_text().splitlines()
    assert len(listed) == 3  # its first line names the columns


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--modalities", "pd"), r"expected the columns \['pd'\] to hold files"),
        (("--segment", "mask"), r"'mask'\] to hold files"),
        (("--intensity", "belly"), "--intensity belly: write zscore"),
        (("--spacing", "1,2"), "--spacing"),
        (("--patch", "4x4"), "--patch: write one side"),
        (("--foreground", "--segment", "seg"), "--foreground: the box depends on the scan"),
    ],
)
def test_wrong_flags_are_one_sentence(
    carried: Carry, made: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    given = words if "--modalities" in words else ("--modalities", "flair", *words)
    with pytest.raises(ValueError, match=told):
        carried("--data", str(made), "--out", str(tmp_path), *given)


@pytest.mark.parametrize("masker", MASKERS)
def test_every_masker_is_drawn_on_a_file(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], masker: str
) -> None:
    scan = str(next(made.parent.glob("*/t1.nii.gz")))
    words = ["--kind", "volume", "--data", scan, "--set", "size=16,patch=4", "--masker", masker]
    assert command(["masks", *words, "--out", str(tmp_path / "m.png")]) == 0
    assert "16 visible, 48 hidden of 64 tokens (75.0%)" in capsys.readouterr().out
    assert (tmp_path / "m.png").is_file()


def test_the_fitted_reader_gives_what_a_saved_model_was_made_for(made: Path) -> None:
    scan = next(made.parent.glob("*/t1.nii.gz"))  # 16^3 voxels of 12.5 mm
    patches = VolumePatches(12, 4, spacing=25.0, intensity=(0.0, 500.0))
    volume = VolumeReader.fitted(patches, augment=True).read(scan, torch.Generator())
    assert volume.size == (8, 8, 8)
    assert volume.data.min() >= 0
    assert volume.data.max() <= 1
    patches.collate([volume])
    small = VolumeReader.fitted(VolumePatches(4, 4), augment=False).read(scan)
    assert small.size == (4, 4, 4)
    with pytest.raises(ValueError, match="intensity='z'"):
        VolumePatches(4, 4, intensity="z")


def test_smaller_shares_of_labels_are_nested_and_in_proportion(made: Path) -> None:
    table = Table.from_csv(made, ("flair",), VolumeReader())
    shares = [set(table.split_off(share)[1].columns["id"]) for share in (0.1, 0.4, 0.8)]
    assert shares[0] < shares[1] < shares[2]
    csf = set(table.where(label="csf").columns["id"])
    assert len(csf) == 8
    assert [len(share & csf) for share in shares] == [1, 3, 6]
    assert shares[1] == set(table.split_off(0.4)[1].columns["id"])


def test_volumes_keep_the_contract() -> None:
    check_modality(VolumePatches((4, 8, 12), (2, 4, 4), 2), list(torch.randn(3, 2, 4, 8, 12)))
    placed = [
        new_volume(x.numpy(), np.diag([2.0, -1, 3, 1])).tensors()
        for x in torch.randn(3, 1, 4, 8, 9)
    ]
    check_modality(VolumePatches((4, 8, 12), (2, 4, 4), partial="repeat"), placed)
