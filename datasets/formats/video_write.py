"""Writing clips: so that examples and tests go through the real readers."""

from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

from multimask.datasets.formats.files import AnyPath


def write_clip(
    path: AnyPath,
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    fps: int | Fraction = 25,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    gop: int | None = None,
    b_frames: int | None = None,
) -> None:
    """Encode RGB frames; the suffix of the path chooses the container.

    Args: codec and options, FFmpeg's; gop, frames from one key frame to the next; b_frames, most
    frames in a row that refer to later ones.
    Raises: ValueError for no frames, and for sizes that 4:2:0 colour does not allow (odd ones).
    """
    import av  # its libraries are large; only those who write videos load them
    from av.video.stream import VideoStream

    written = 0
    # one thread each: the bytes of a clip then do not depend on the machine
    first = {"movflags": "+faststart"} if str(path).endswith((".mp4", ".mov")) else {}
    with av.open(str(path), "w", options=first) as container:
        stream = container.add_stream(codec, rate=fps, options=dict(options or {}))
        assert isinstance(stream, VideoStream)
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if gop is not None:
            stream.codec_context.gop_size = gop
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        for frame in frames:
            if not written:
                stream.height, stream.width = frame.shape[:2]
                if "420" in pixel_format and (frame.shape[0] % 2 or frame.shape[1] % 2):
                    raise ValueError(
                        f"write_clip: {pixel_format} needs even sizes, found {frame.shape[:2]}."
                    )
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
            written += 1
        if not written:
            raise ValueError("write_clip: there are no frames to write.")
        container.mux(stream.encode(None))
