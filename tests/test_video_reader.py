"""The video reader: exact frames in any order, from any kind of file."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multimask.datasets.formats.video_write import write_clip
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.frame_sampling import Every, Strided, Uniform
from multimask.datasets.store import open_store
from multimask.datasets.table import Table
from multimask.datasets.transforms import MultiScaleCrop, RandomResizedCrop, ResizeCrop
from video_files import BITS, CODECS, FRAMES, HEIGHT, WIDTH, coded_frames, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def said(frame: np.ndarray) -> int:
    """The number that a frame says."""
    return sum(int(frame[2:10, 16 * b + 3 : 16 * b + 13].mean() > 127) << b for b in range(BITS))


# --- exact frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_frames_are_exact_in_any_order(clips: Path, name: str) -> None:
    reader, path = VideoReader(), clips / name
    facts = reader.probe(path)
    assert facts["frames"] == FRAMES
    assert facts["access"] == CODECS[name][1]
    assert facts["damage"] is None
    shuffled = random.Random(0).sample(range(FRAMES), FRAMES)
    orders = [shuffled, list(range(FRAMES)), list(range(29, 45)), [50, 3, 3, 27], [59], [13]]
    for order in orders:
        frames, seconds = reader.frames_at(path, order, facts)
        assert [said(frame) for frame in frames] == order
        assert seconds is not None
        assert np.allclose(seconds, np.array(order) / 25, atol=2e-3)


@pytest.mark.parametrize("name", CODECS)
def test_every_way_of_reading_gives_the_same_pixels(clips: Path, name: str) -> None:
    reader, path = VideoReader(), clips / name
    facts = reader.probe(path)
    order = list(range(20, 30))
    first, _ = reader.frames_at(path, order, facts)
    for access in ("seek", "sequential"):
        again, seconds = reader.frames_at(path, order, facts | {"access": access})
        assert np.array_equal(first, again)
        assert seconds is not None
        assert np.allclose(seconds, np.array(order) / 25, atol=2e-3)
    by_decord, _ = VideoReader(decord=True).frames_at(path, order, facts)
    assert np.array_equal(first, by_decord)
    spread, _ = reader.frames_at(path, [*order, 0, 59], facts)
    assert np.array_equal(spread[:10], first)


def test_colours_come_back(clips: Path) -> None:
    plain = [np.full((HEIGHT, WIDTH, 3), colour, np.uint8) for colour in ((200, 40, 90),) * 4]
    write_clip(clips / "plain.mp4", plain, options={"crf": "4"})
    write_clip(clips / "plain10.mp4", plain, pixel_format="yuv420p10le", options={"crf": "4"})
    for name in ("plain.mp4", "plain10.mp4"):
        frames, _ = VideoReader().frames_at(clips / name, [2])
        assert np.abs(frames[0].astype(int) - plain[0]).max() <= 6


# --- clips ----------------------------------------------------------------------------------------


def test_a_sample_is_a_clip_with_its_seconds(clips: Path) -> None:
    reader = VideoReader(Strided(8, stride=4), ResizeCrop((32, 48)))
    clip = reader.read(clips / "h264.mp4")
    assert clip["frames"].shape == (8, 3, 32, 48)
    assert clip["frames"].dtype == torch.uint8
    torch.testing.assert_close(clip["seconds"].diff(), torch.full((7,), 0.16, dtype=torch.float64))
    again = reader.read(clips / "h264.mp4")
    assert torch.equal(clip["frames"], again["frames"])


def test_what_is_random_comes_from_the_generator(clips: Path) -> None:
    reader = VideoReader(Strided(4, stride=2), RandomResizedCrop(32, flip=0.0))

    def drawn(seed: int) -> torch.Tensor:
        clip = reader.read(clips / "h264.mp4", torch.Generator().manual_seed(seed))
        return clip["frames"]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_all_frames_of_a_clip_are_cropped_alike(clips: Path) -> None:
    still = [coded_frames(1)[0]] * 6
    write_clip(clips / "still.mp4", still, options={"crf": "4"})
    reader = VideoReader(Strided(6, 1), RandomResizedCrop(32))
    clip = reader.read(clips / "still.mp4", torch.Generator().manual_seed(3))
    spread = clip["frames"].float().std(dim=0)
    assert spread.max() < 12  # the codec's own noise


def test_several_clips_of_a_file_are_read_at_once(clips: Path) -> None:
    several = VideoReader(Strided(4, 2, clips=3)).read_clips(clips / "h264.mp4")
    starts = [said(clip["frames"][0].permute(1, 2, 0).numpy()) for clip in several]
    assert starts == [0, 26, 53]
    with pytest.raises(ValueError, match="3 clips"):
        VideoReader(Strided(4, 2, clips=3)).read(clips / "h264.mp4")


def test_samplers_stay_within_the_file() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 5, 16, 61, 300):
        for sampler in (Strided(16, 4, 2), Uniform(16, 2), Every(3)):
            for drawn in (sampler(count), sampler(count, generator)):
                assert drawn.min() >= 0
                assert drawn.max() < count
                assert (np.diff(drawn, axis=1) >= 0).all()
    assert Strided(4, 4)(6).tolist() == [[0, 4, 4, 4]]  # the last frame it can reach, as published


def test_random_starts_cover_the_file_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = np.array([Strided(4, 2)(16, generator)[0, 0] for _ in range(4000)])
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10
    assert counts.min() > 300  # 400 each


def test_packed_clips_are_read_again_for_other_frames_and_crops(
    clips: Path, tmp_path: Path
) -> None:
    table = Table.of({"video": ["h264.mp4"]}, {"video": VideoReader(Every())}, clips)
    reader = VideoReader(Strided(8, 2), MultiScaleCrop(32))
    table.pack(tmp_path / "clips.zarr")
    packed = open_store(tmp_path / "clips.zarr", reader)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 5)]
    first = packed.draw(0, generators[0])["video"]
    second = table.with_readers(video=reader).draw(0, generators[1])["video"]
    assert torch.equal(first["frames"], second["frames"])
    assert torch.equal(first["seconds"], second["seconds"])


def test_grey_frames_are_the_luminance(clips: Path) -> None:
    colour, grey = (
        VideoReader(Every(), grey=grey).read(clips / "h264.mp4") for grey in (False, True)
    )
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    wanted = (colour["frames"] * weights).sum(dim=1, keepdim=True)
    assert grey["frames"].shape == (FRAMES, 1, HEIGHT, WIDTH)
    assert (grey["frames"] - wanted).abs().max() <= 0.5


# --- turned, animated, in folders -----------------------------------------------------------------


def test_rotation_flags_are_applied(shared_data: Path) -> None:
    reader, path = VideoReader(Strided(1)), shared_data / "video/formats/video_rotation_90.mp4"
    facts = reader.probe(path)
    assert (facts["width"], facts["height"], facts["rotation"]) == (60, 100, -90)
    assert reader.frames_at(path, [0])[0].shape == (1, 100, 60, 3)
    assert reader.read(path)["frames"].shape == (1, 3, 100, 60)


def test_animations_are_clips(tmp_path: Path) -> None:
    pictures = [Image.fromarray(frame) for frame in coded_frames(6)]
    path = tmp_path / "moving.gif"
    durations = [40, 80, 120, 40, 40, 40]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations)
    reader = VideoReader(Every())
    assert reader.probe(path)["frames"] == 6
    clip = reader.read(path)
    numbers = [said(frame.permute(1, 2, 0).numpy()) for frame in clip["frames"]]
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert clip["seconds"].tolist() == pytest.approx([0, 0.04, 0.12, 0.24, 0.28, 0.32])
    frames, _ = reader.frames_at(path, [4, 1])
    assert [said(frame) for frame in frames] == [4, 1]


def test_a_folder_of_frames_is_a_clip_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number, frame in enumerate(coded_frames(12)):
        Image.fromarray(frame).save(tmp_path / f"{number + 1}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    clip = VideoReader(Every(), rate=12.0).read(tmp_path)
    numbers = [said(frame.permute(1, 2, 0).numpy()) for frame in clip["frames"]]
    assert numbers == list(range(12))
    assert clip["seconds"][-1].item() == pytest.approx(11 / 12)
    assert set(VideoReader(Every()).read(tmp_path)) == {"frames"}
