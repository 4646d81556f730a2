"""Public sets' folders and the made clips: read as files, the way real ones are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.frame_sampling import Strided
from multimask.datasets.layouts.kinetics import kinetics, listed_clips, write_fake_kinetics
from multimask.datasets.layouts.something_something import (
    something_v1,
    something_v2,
    write_fake_something,
)
from multimask.datasets.layouts.ucf101 import ucf101, write_fake_ucf101
from multimask.datasets.synthetic_motion import SPEED, WAYS, moved, moving_shapes
from multimask.datasets.synthetic_video import MOTIONS, camera_path, moving_cameras, textures_of
from multimask.datasets.table import Table
from multimask.tokens import sample_generator

READER = VideoReader(Strided(4, 2))


def test_ucf101_keeps_groups_apart(tmp_path: Path) -> None:
    write_fake_ucf101(tmp_path)
    table = ucf101(tmp_path, reader=READER)
    assert len(table) == 6
    assert sorted(set(table.columns["label"])) == ["ApplyEyeMakeup", "ApplyLipstick"]
    train, test = (set(table.where(split=s).columns["subject"]) for s in ("train", "test"))
    assert len(train) == 4
    assert len(test) == 2
    assert not train & test
    assert table[0]["video"]["frames"].shape == (4, 3, 32, 48)
    (tmp_path / "ucfTrainTestlist/trainlist01.txt").write_text("Archery/clip.avi 1\n")
    with pytest.raises(ValueError, match="line 1 should name a clip"):
        ucf101(tmp_path)
    with pytest.raises(ValueError, match=r"trainlist02.txt: expected a list of clips, found: No"):
        ucf101(tmp_path, split=2)


def test_kinetics_takes_the_clips_that_are_there(tmp_path: Path) -> None:
    write_fake_kinetics(tmp_path)
    table = kinetics(tmp_path, READER)
    assert len(table) == 7  # of 8 that are named
    assert set(table.columns["split"]) == {"train", "val"}
    assert set(table.columns["label"]) == {"air drumming", "zumba"}
    assert table[3]["video"]["frames"].shape == (4, 3, 32, 48)
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(ValueError, match="none of the 8 clips"):
        kinetics(tmp_path)


def test_lists_may_name_paths_with_spaces(tmp_path: Path) -> None:
    write_fake_kinetics(tmp_path)
    files = sorted((tmp_path / "train").rglob("*.mp4"))
    lines = [f"{file.relative_to(tmp_path)} {row % 2}" for row, file in enumerate(files)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    table = listed_clips(tmp_path / "train.txt", reader=READER)
    assert "air drumming" in table.columns["video"][0]
    assert list(table.columns["label"]) == [0, 1, 0]
    assert table[0]["video"]["frames"].shape == (4, 3, 32, 48)
    (tmp_path / "bad.txt").write_text("clip.mp4\n")
    with pytest.raises(ValueError, match="line 1 should be `path label`"):
        listed_clips(tmp_path / "bad.txt")


def test_something_something_in_both_versions(tmp_path: Path) -> None:
    write_fake_something(tmp_path / "two", version=2)
    write_fake_something(tmp_path / "one", version=1)
    for table in (something_v2(tmp_path / "two", READER), something_v1(tmp_path / "one", READER)):
        assert list(table.columns["split"]) == ["train", "train", "val", "test"]
        assert list(table.columns["id"]) == ["1", "2", "10", "11"]
        assert table.columns["label"][0] == "Pushing something from left to right"
        assert table.columns["label"][3] is None
        clip = table[2]["video"]
        assert clip["frames"].shape == (4, 3, 32, 48)
        torch.testing.assert_close(
            clip["seconds"].diff(), torch.full((3,), 1 / 6, dtype=torch.float64), rtol=0, atol=2e-3
        )
    (tmp_path / "two/labels/labels.json").write_text("[1]")
    with pytest.raises(ValueError, match="JSON dict"):
        something_v2(tmp_path / "two")


# --- made clips -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("made")
    return moving_cameras(seed=3, train=16, test=8, frames=8, size=64, folder=folder)


def test_made_clips_are_files_of_one_seed(made: Table, tmp_path: Path) -> None:
    again = moving_cameras(seed=3, train=2, test=0, frames=8, size=64, folder=tmp_path)
    other = moving_cameras(seed=4, train=2, test=0, frames=8, size=64, folder=tmp_path / "4")
    first, second, third = (t[1]["video"]["frames"] for t in (made, again, other))
    assert first.shape == (8, 3, 64, 64)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert made[5]["video"]["seconds"].tolist() == pytest.approx(np.arange(8) / 12, abs=1e-3)


def test_what_is_known_of_made_clips_is_what_a_probe_says(made: Table) -> None:
    reader = made.readers["video"]
    assert isinstance(reader, VideoReader)
    probed = reader.probe(Path(made.root) / made.columns["video"][0])
    known = made._reported("video", 0)
    assert known.pop("seconds") == pytest.approx(probed.pop("seconds"))
    assert known == {
        name: "seek" if name == "access" else value  # decord agrees as well, but is not used
        for name, value in probed.items()
        if value is not None
    }


def test_made_labels_are_balanced_and_parts_look_at_different_pictures(made: Table) -> None:
    train = made.where(split="train")
    counts = {motion: list(train.columns["label"]).count(motion) for motion in MOTIONS}
    assert set(counts.values()) == {2}
    pictures = {split: textures_of(split, 3) for split in ("train", "test")}
    for one in pictures["train"]:
        assert not any(torch.equal(one, two) for two in pictures["test"])


def test_the_camera_moves_as_the_label_says() -> None:
    draw = [0.5] * 7
    draw[4] = 0.5  # no turn at the middle
    for motion, axis, sign in (
        ("left", 0, -1),
        ("right", 0, 1),
        ("up", 1, -1),
        ("down", 1, 1),
        ("zoom in", 2, 1),
        ("zoom out", 2, -1),
        ("turn left", 3, -1),
        ("turn right", 3, 1),
    ):
        path = camera_path(motion, 9, draw)
        moved = path[-1] - path[0]
        assert moved[axis] * sign > 0
        assert (moved.abs() > 1e-6).sum() == 1
        torch.testing.assert_close(path.mean(dim=0), path[4], rtol=0, atol=1e-5)


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_keeps_the_verdicts_and_gives_them_back(made: Table) -> None:
    bad, checked = made.head(3).check(workers=1)
    assert bad == []
    assert set(checked.columns["video.access"]) == {"decord"}
    assert list(checked.columns["video.frames"]) == [8, 8, 8]

    class Watching:
        """A reader that must not be asked again what the table knows."""

        suffixes = (".mp4",)

        def probe(self, source: object) -> dict[str, object]:
            raise AssertionError("asked again")

        def read(self, source: object, generator: object = None) -> object:
            raise AssertionError("read without facts")

        def read_known(self, source: object, facts: dict, generator: object = None) -> dict:
            return facts

    facts = checked.with_readers(video=Watching())[1]["video"]
    assert (facts["codec"], facts["frames"], facts["access"]) == ("h264", 8, "decord")
    assert "problem" not in facts


def test_the_file_column_of_a_listing_holds_what_was_asked_for(made: Table, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(Path(made.root) / "train")
    for name in ("file", "path", "video"):
        listing = tmp_path / f"{name}.csv"
        listing.write_text(f"{name},label\ntrain/00000.mp4,left\ntest/00001.mp4,right\n")
        table = Table.open(listing, "video", VideoReader(Strided(8, 1)))
        assert table[0]["video"]["frames"].shape == (8, 3, 64, 64)
    both = tmp_path / "both.csv"
    both.write_text("file,path\ntrain/00000.mp4,train/00001.mp4\n")
    with pytest.raises(ValueError, match="say which"):
        Table.open(both, "video", VideoReader())


def test_a_table_names_exactly_the_damaged_files(made: Table, tmp_path: Path) -> None:
    shutil.copytree(made.root, tmp_path / "copy")
    for name in ("train/00003.mp4", "test/00002.mp4"):
        (tmp_path / "copy" / name).write_bytes(b"no video at all")
    table = Table.from_folder(tmp_path / "copy", "video", VideoReader(Strided(8, 1)))
    bad, _ = table.check(workers=1)
    assert [name for name, _ in bad] == ["test/00002.mp4", "train/00003.mp4"]


# --- shapes that move -----------------------------------------------------------------------------


def test_shapes_go_their_way_and_come_back_on_the_other_side() -> None:
    """By the phase of the picture along each axis: it turns with the shape, once round a side."""
    for way, (right, down) in WAYS.items():
        for number in range(4):
            generator = sample_generator(number, 0, way, "moving shape")
            clip = torch.from_numpy(moved(way, 12, 32, generator)[..., 0]).double() / 255 - 0.5
            for step, kept in ((right, 1), (down, 2)):
                line = clip.sum(dim=kept)  # over rows leaves columns, and the other way round
                angle = torch.fft.fft(line, dim=1)[:, 1].angle().numpy()
                travelled = -np.unwrap(angle)[-1] + np.unwrap(angle)[0]
                speed = travelled / (2 * np.pi) / 11  # of a side, a frame
                if step:
                    assert SPEED[0] * 0.9 < speed * step < SPEED[1] * 1.1
                else:
                    assert abs(speed) < 0.01


def test_made_shapes_are_balanced_files_of_one_seed(tmp_path: Path) -> None:
    table = moving_shapes(train=8, test=4, frames=4, size=16, folder=tmp_path)
    again = moving_shapes(train=8, test=4, frames=4, size=16, folder=tmp_path / "again")
    assert list(table.where(split="train").columns["label"]) == [*WAYS, *WAYS]
    assert table[9]["video"]["frames"].shape == (4, 3, 16, 16)
    assert torch.equal(table[9]["video"]["frames"], again[9]["video"]["frames"])


def test_packing_asks_nothing_that_the_table_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = moving_shapes(train=2, test=0, frames=4, size=16, folder=tmp_path / "clips")

    def asked(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr("multimask.datasets.formats.videos.PROBER", asked)
    store = table.pack(tmp_path / "clips.zarr")
    assert torch.equal(store[1]["video"]["frames"], table[1]["video"]["frames"])
