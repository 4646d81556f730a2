"""Clips as folders with one picture a frame, as many sets are unpacked.

walking/person01/0001.jpg ..., or train/walking/person01/0001.jpg ...
"""

import os
from pathlib import Path

from multimask.datasets.formats.animations import PICTURES
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.scan import files_below, said_by_folders
from multimask.datasets.table import Table


def frame_folders(root: str | Path, reader: VideoReader | None = None) -> Table:
    """Every folder that holds pictures is a clip: `video`, `label` (the top folder), and `split`
    where all top folders are train, val or test. No picture is opened.

    Raises: ValueError for a folder that is missing or holds no folder of pictures.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder of folders of frames, found none.")
    found = dict.fromkeys(
        os.path.dirname(name) for name in files_below(root) if name.lower().endswith(PICTURES)
    )
    folders = [name for name in found if name]
    if not folders:
        raise ValueError(
            f"{root}: expected folders with one picture a frame ({', '.join(PICTURES)}), found "
            + ("pictures in the folder itself; name the folder above it." if found else "none.")
        )
    columns = {"id": folders, "video": folders, **said_by_folders(folders)}
    return Table.of(columns, {"video": reader or VideoReader()}, root)
