"""Public sets of motion: their folders and splits, read from small fakes of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from multimask.datasets.formats.skeletons import SkeletonReader
from multimask.datasets.layouts.kinetics_skeleton import kinetics_skeleton, write_fake_kinetics
from multimask.datasets.layouts.mocap import (
    bandai_namco,
    cmu_mocap,
    write_fake_bandai,
    write_fake_cmu,
)
from multimask.datasets.layouts.ntu import SUBJECTS_60, SUBJECTS_120, ntu, write_fake_ntu
from multimask.datasets.layouts.pyskl import pyskl, write_fake_pyskl
from multimask.datasets.motion import Clip
from multimask.datasets.table import Table
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_topologies import NTU25
from multimask.modality import collate
from multimask.tokens import BadSample
from skeleton_files import write

RAW = {"skeleton": SkeletonReader()}


def test_ntu_splits_are_the_official_ones(tmp_path: Path) -> None:
    assert len(SUBJECTS_60) == 20
    assert len(SUBJECTS_120) == len(set(SUBJECTS_120)) == 53
    write_fake_ntu(tmp_path)
    columns = ntu(tmp_path)
    assert max(columns["label"]) == 59
    assert len(columns["id"]) == 6  # the fake set has twelve, half of them of actions above 60
    for subject, split in zip(columns["subject"], columns["split"], strict=True):
        assert (split == "train") == (subject in SUBJECTS_60)
    columns = ntu(tmp_path, "xview")
    for camera, split in zip(columns["camera"], columns["split"], strict=True):
        assert (split == "train") == (camera in (2, 3))
    columns = ntu(tmp_path, "xset", 120)
    assert len(columns["id"]) == 12
    for setup, split in zip(columns["setup"], columns["split"], strict=True):
        assert (split == "train") == (setup % 2 == 0)
    with pytest.raises(ValueError, match="xsub and xset of 120"):
        ntu(tmp_path, "xview", 120)


def test_an_ntu_table_reads_like_any_other(tmp_path: Path) -> None:
    write_fake_ntu(tmp_path)
    table = Table.of(ntu(tmp_path, "xsub", 120), RAW, tmp_path)
    tokenizer = SkeletonJoints(NTU25, frames=6, bodies=2)
    read, bad = [], []
    for row in range(len(table)):
        try:
            read.append(table[row])
        except BadSample as error:
            bad.append(str(error))
    assert len(read) == 11
    assert "found none in any of 6 frames" in bad[0]
    batch = collate(read, {"skeleton": tokenizer})
    assert batch.labels["split"].count("train") > 0
    assert tokenizer(batch.parts["skeleton"]).values.shape == (11, 2 * 6 * 25, 3)


def test_the_other_layouts_read_their_own_fakes(tmp_path: Path) -> None:
    write_fake_kinetics(tmp_path / "kinetics")
    table = Table.of(kinetics_skeleton(tmp_path / "kinetics"), RAW, tmp_path / "kinetics")
    assert [table[row]["skeleton"].shape for row in range(3)] == [(1, 5, 18, 2)] * 3
    assert list(table.columns["split"]) == ["train", "train", "val"]
    both = SkeletonReader(bodies=None).read(tmp_path / "kinetics/kinetics_train/bbb.json")
    assert both.shape == (2, 5, 18, 2)

    write_fake_cmu(tmp_path / "cmu")
    table = Table.of(cmu_mocap(tmp_path / "cmu"), RAW, tmp_path / "cmu")
    assert list(table.columns["subject"]) == ["01", "01", "02"]
    assert table[2]["skeleton"].shape == (1, 2, 3, 3)

    write_fake_bandai(tmp_path / "bandai")
    table = Table.of(bandai_namco(tmp_path / "bandai"), RAW, tmp_path / "bandai")
    assert sorted(table.columns["label"]) == ["raise-up-both-hands", "walk", "walk"]
    assert table[0]["skeleton"].shape == (1, 2, 2, 3)

    write_fake_pyskl(tmp_path / "set.json")
    columns = pyskl(tmp_path / "set.json", "xsub_train", "xsub_val")
    assert columns["split"] == ["train", "train", "test", "test"]
    reader = SkeletonReader(Clip(4), bodies=2)
    table = Table.of(columns, {"skeleton": reader})
    assert table[1]["skeleton"].shape == (2, 4, 17, 2)
    assert columns["skeleton"][2][0, 0].shape == (17, 2)
    assert np.isnan(columns["skeleton"][2][0, 0, 2]).all()  # its score is zero


@pytest.mark.parametrize("layout", [ntu, kinetics_skeleton, cmu_mocap, bandai_namco])
def test_a_layout_says_what_it_expected(layout, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected .* found none"):
        layout(tmp_path)
    with pytest.raises(ValueError, match=r"expected .* found none"):
        layout(tmp_path / "nowhere")


def test_a_pyskl_file_with_a_bad_clip_names_it(tmp_path: Path) -> None:
    write_fake_pyskl(tmp_path / "set.json")
    content = json.loads((tmp_path / "set.json").read_text())
    with pytest.raises(ValueError, match="has no split 'nope', only xsub_train, xsub_val"):
        pyskl(tmp_path / "set.json", "nope")
    content["annotations"][1]["keypoint"][0].pop()
    write(tmp_path / "set.json", content)
    with pytest.raises(ValueError, match="clip S001C001P001R001A001: expected"):
        pyskl(tmp_path / "set.json")
