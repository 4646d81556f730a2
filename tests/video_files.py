"""What tests of the video reader share: small clips whose pixels tell their frame."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.video_write import write_clip

FRAMES, HEIGHT, WIDTH, BITS = 60, 64, 96, 6

# file name: how it is written, how it may be read
CODECS: dict[str, tuple[dict[str, Any], str]] = {
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


def write_clips(folder: Path, names: Iterable[str] = CODECS) -> Path:
    for name in names:
        write_clip(folder / name, coded_frames(), **CODECS[name][0])
    return folder
