"""Small picture files to test readers with."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RAINBOW = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
SMOOTH = np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)


def saved(path: Path, pixels: np.ndarray = RAINBOW, mode: str = "RGB", **how: Any) -> Path:
    Image.fromarray(pixels).convert(mode).save(path, **how)
    return path
