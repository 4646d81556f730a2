"""Video files: clear errors for what is broken, no waiting and no growth."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multimask.datasets.formats import video_probe
from multimask.datasets.formats.video_index import read_index
from multimask.datasets.formats.video_probe import Prober
from multimask.datasets.formats.video_write import write_clip
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.frame_sampling import Every
from multimask.tokens import BadSample
from video_files import FRAMES, coded_frames, write_clips

NAMES = ("h264.mp4", "open.mp4", "h264.mkv", "hevc.mp4", "mpeg4.mp4")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), NAMES)


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
    for name in NAMES:
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


@pytest.mark.parametrize(("access", "order"), [("seek", [5, 1]), ("decord", [2, 3])])
def test_two_thousand_opens_leave_nothing_behind(
    access: str, order: list[int], tmp_path: Path
) -> None:
    """Each by itself: where the two alternate, the C library holds on to freed memory in pieces."""
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
                frames_at(sys.argv[1], [int(x) for x in sys.argv[3:]], sys.argv[2], 10**8)
        opens(200)
        rss, files = state()
        opens(2000)
        print(state()[0] - rss, state()[1] - files)
    """
    told = [str(tmp_path / "a.mp4"), access, *map(str, order)]
    command = [sys.executable, "-c", textwrap.dedent(code), *told]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, files = done.stdout.split()
    assert float(grown) < 20, "MiB"
    assert int(files) == 0


def test_an_index_counts_frames_without_trusting_the_header(clips: Path) -> None:
    index = read_index(clips / "h264.mkv", 10**8)
    assert (len(index.shown), index.leading, index.ordered) == (FRAMES, False, True)
    assert read_index(clips / "open.mp4", 10**8).leading
