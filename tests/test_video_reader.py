"""The video reader: exact frames in any order, clear errors, no growth, no waiting."""

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from multimask.datasets.formats import video_probe
from multimask.datasets.formats.video_index import read_index
from multimask.datasets.formats.video_probe import Prober
from multimask.datasets.formats.video_write import write_clip
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.frame_sampling import Every, Strided, Uniform
from multimask.datasets.store import open_store
from multimask.datasets.table import Table
from multimask.datasets.transforms import MultiScaleCrop, RandomResizedCrop, ResizeCrop
from multimask.tokens import BadSample

FRAMES, HEIGHT, WIDTH, BITS = 60, 64, 96, 6
CODECS: dict[
    str, tuple[dict[str, Any], str]
] = {  # file name: how it is written, how it may be read
    "h264.mp4": ({"options": {"bf": "3", "g": "12"}}, "decord"),
    "h264.mkv": ({"options": {"bf": "3", "g": "12"}}, "decord"),
    "h264.mov": ({"options": {"bf": "3", "g": "12"}}, "decord"),
    "open.mp4": ({"options": {"bf": "3", "g": "12", "x264-params": "open-gop=1"}}, "seek"),
    "hevc.mp4": (
        {
            "codec": "libx265",
            "options": {"x265-params": "open-gop=1:bframes=4:keyint=12:log-level=none"},
        },
        "seek",
    ),
    "mpeg4.avi": ({"codec": "mpeg4", "gop": 12, "b_frames": 2, "options": {"b": "1M"}}, "seek"),
    "mpeg4.mp4": ({"codec": "mpeg4", "gop": 12, "b_frames": 2, "options": {"b": "1M"}}, "seek"),
    "vp9.webm": ({"codec": "libvpx-vp9", "gop": 12, "options": {"b": "1M"}}, "decord"),
    "av1.mp4": ({"codec": "libsvtav1", "gop": 12, "options": {"preset": "10"}}, "seek"),
    "deep.mp4": ({"pixel_format": "yuv420p10le", "options": {"g": "12"}}, "seek"),
}


def coded_frames(count: int = FRAMES) -> list[np.ndarray]:
    """Frames that move and say their number as black and white squares along the top."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames = []
    for number in range(count):
        waves = (
            128 + 100 * np.sin((x + 3 * number) / 9),
            128 + 100 * np.sin((y + 2 * number) / 7),
            np.full(x.shape, 4 * number % 256),
        )
        frame = np.stack(waves, axis=-1)
        for bit in range(BITS):
            frame[:12, 16 * bit : 16 * bit + 16] = 255 * (number >> bit & 1)
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return frames


def said(frame: np.ndarray) -> int:
    """The number that a frame says."""
    return sum(int(frame[2:10, 16 * b + 3 : 16 * b + 13].mean() > 127) << b for b in range(BITS))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, (how, _) in CODECS.items():
        write_clip(folder / name, coded_frames(), **how)
    return folder


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


# --- bad input ------------------------------------------------------------------------------------


def reason(path: Path, reader: VideoReader | None = None) -> str:
    with pytest.raises(BadSample) as caught:
        (reader or VideoReader()).read(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") == 0
    assert "Error" not in message
    return message


def test_a_file_cut_short_gives_what_can_be_read(clips: Path, tmp_path: Path) -> None:
    for name in ("h264.mp4", "open.mp4", "h264.mkv", "hevc.mp4", "mpeg4.mp4"):
        whole = (clips / name).read_bytes()
        path = tmp_path / name
        path.write_bytes(whole[: int(0.6 * len(whole))])
        reader = VideoReader(Every())
        facts = reader.probe(path)
        assert facts["damage"] == f"{facts['frames']} of 60 frames can be read", name
        assert 5 < facts["frames"] < 55
        readable = list(range(facts["frames"]))
        frames, seconds = reader.frames_at(path, readable, facts)
        wanted, times = reader.frames_at(clips / name, readable)
        assert np.array_equal(frames, wanted), name  # nothing is made up near the cut
        assert np.array_equal(np.asarray(seconds), np.asarray(times))
        assert len(reader.read(path)["frames"]) == facts["frames"]
        with pytest.raises(BadSample, match=r"frames from \d+ on are missing|cannot be decoded"):
            reader.frames_at(path, [facts["frames"] + 3, 0], facts)
        assert "frames can be read" in reason(path, VideoReader(partial=False))


def test_whatever_is_no_video_is_named(tmp_path: Path) -> None:
    def made(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert "zero bytes" in reason(made("empty.mp4", b""))
    assert "cannot be decoded" in reason(made("text.mp4", b"hello " * 50))
    assert "no such file" in reason(tmp_path / "gone.mp4")
    (tmp_path / "folder.mp4").mkdir()
    assert "found a folder of 0 other files" in reason(tmp_path / "folder.mp4")
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
    assert "cannot be decoded" in reason(made("list.mp4", playlist))
    assert "a file that is none" in reason(made("bad.gif", b"GIF89a\x01"))
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "pipe or device" in reason(tmp_path / "pipe.mp4")


def test_headers_cannot_make_it_allocate(tmp_path: Path, clips: Path) -> None:
    header = b"GIF89a" + (65535).to_bytes(2, "little") * 2 + b"\x80\x00\x00" + bytes(6)
    path = tmp_path / "vast.gif"
    path.write_bytes(header + b"\x2c" + bytes(4) + b"\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b")
    assert "too many pixels" in reason(path)
    assert "at most 1,000 pixels" in reason(clips / "h264.mp4", VideoReader(max_pixels=1000))
    vast = {"frames": 10**9, "height": 64, "width": 96, "access": "seek"}
    with pytest.raises(BadSample, match="ask for fewer"):
        VideoReader(Every(most=10**6)).read_known(clips / "h264.mp4", vast)


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    for number, size in enumerate([(32, 32), (32, 48)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    assert "frames of one size" in reason(tmp_path, VideoReader(Every()))


def test_bad_files_are_named_and_good_ones_read(shared_data: Path) -> None:
    for path in sorted((shared_data / "bad/video").iterdir()):
        if path.name != "truncated.mkv":
            reason(path)
    facts = VideoReader().probe(shared_data / "bad/video/truncated.mkv")
    assert "frames can be read" in facts["damage"]
    counts = {
        "h264_10bits.mp4": 30,
        "h265_video.mp4": 10,
        "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": 83,
        "video_rotation_90.mp4": 1,
    }
    for name, count in counts.items():
        path = shared_data / "video/formats" / name
        assert VideoReader().probe(path)["frames"] == count
        clip = VideoReader(Every()).read(path)
        assert len(clip["frames"]) == count


# --- no waiting, no growth ------------------------------------------------------------------------


def answering(body: str) -> tuple[str, ...]:
    """A child that says it is ready and then does this with each line."""
    code = "import json, os, sys, time\nprint(json.dumps({'ready': True}), flush=True)\n"
    code += "for line in sys.stdin:\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return (sys.executable, "-c", code)


def test_a_decoder_that_hangs_is_named(clips: Path) -> None:
    prober = Prober(limit=0.5, command=answering("time.sleep(60)"))
    with pytest.raises(BadSample, match=r"gave no answer within 0\.5 seconds"):
        prober(clips / "h264.mp4", 10**8)
    with pytest.raises(BadSample, match="gave no answer"):  # told again, not asked again
        prober(clips / "h264.mp4", 10**8)


def test_a_decoder_that_crashes_is_named(clips: Path) -> None:
    prober = Prober(limit=5.0, command=answering("os.abort()"))
    with pytest.raises(BadSample, match="the decoder crashed"):
        prober(clips / "h264.mp4", 10**8)


def test_a_child_that_does_not_start_is_no_files_fault(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_probe, "STARTING", 0.3)
    prober = Prober(command=(sys.executable, "-c", "import time; time.sleep(60)"))
    with pytest.raises(TimeoutError, match=r"gave no answer within 0\.3 seconds while it started"):
        prober(clips / "h264.mp4", 10**8)
    assert not prober._known  # asked again next time


def test_a_decord_that_hangs_is_not_used(clips: Path) -> None:
    facts = "print(json.dumps({'facts': {'access': 'seek', 'damage': None}}), flush=True)\n"
    prober = Prober(limit=0.5, command=answering(facts + "time.sleep(60)"))
    assert prober(clips / "h264.mp4", 10**8)["access"] == "seek"


def test_a_file_is_asked_about_once_until_it_changes(clips: Path, tmp_path: Path) -> None:
    body = "print(json.dumps({'facts': {'n': os.getpid()}}) + '\\n{\"decord\": false}', flush=True)"
    prober = Prober(command=answering("time.sleep(0.01)\n" + body))
    path = tmp_path / "clip.mp4"
    path.write_bytes((clips / "h264.mp4").read_bytes())
    first = prober(path, 10**8)
    assert prober(path, 10**8) == first
    assert len(prober._known) == 1
    path.write_bytes(path.read_bytes() + b"x")
    prober(path, 10**8)
    assert len(prober._known) == 2


def test_two_thousand_opens_leave_nothing_behind(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", coded_frames(8), options={"g": "4"})
    code = """
        import os, sys
        from multimask.datasets.formats.video_decode import frames_at
        def state():
            lines = open("/proc/self/status").read().splitlines()
            rss = next(int(x.split()[1]) for x in lines if x.startswith("VmRSS"))
            return rss / 1024, len(os.listdir("/proc/self/fd"))
        def opens(n):
            for i in range(n):
                frames_at(sys.argv[1], [5, 1], "seek", 10**8)
                frames_at(sys.argv[1], [2, 3], "decord", 10**8)
        opens(200)
        rss, files = state()
        opens(1000)
        print(state()[0] - rss, state()[1] - files)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, files = done.stdout.split()
    assert float(grown) < 20, "MiB"
    assert int(files) == 0


def test_an_index_counts_frames_without_trusting_the_header(clips: Path) -> None:
    index = read_index(clips / "h264.mkv", 10**8)
    assert (len(index.shown), index.leading, index.ordered) == (FRAMES, False, True)
    assert read_index(clips / "open.mp4", 10**8).leading
