"""What a file of bands tells about the tokenizer that suits it."""

from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.cubes import Box, CubeFile

LARGEST, PATCH = 64, 8  # pixels a side of a sample and of a patch
LOOKED_AT = 256  # pixels a side of the middle that statistics are taken from


def suggested(path: Path, reader: Any) -> dict[str, Any]:
    """Arguments of `SpectralPatches` for a file, or the first one of a folder; {} where there is
    none. Wavelengths and names are suggested where every band has either."""
    if path.is_dir():
        path = min((p for p in path.rglob("*") if p.suffix in reader.suffixes), default=path)
    if not path.is_file() or path.suffix.lower() not in reader.suffixes or path.suffix == ".npz":
        return {}
    file = reader.open(path)
    bands, height, width = file.shape
    made: dict[str, Any] = {
        "bands": bands,
        "size": tuple(fitting(side) for side in (height, width)),
        "patch": tuple(min(side, PATCH) for side in (height, width)),
    }
    nm = file.wavelengths or (float("nan"),) * bands
    names = file.names or ("",) * bands
    listed = [band for band in range(bands) if np.isfinite(nm[band])]
    named = [band for band in range(bands) if not np.isfinite(nm[band]) and names[band]]
    if len(listed) + len(named) == bands:
        made["wavelengths"] = tuple(nm[band] for band in listed)
        made["names"] = tuple(names[band] for band in named)
        made["mean"], made["std"] = statistics(file, reader, [*listed, *named])
    else:  # whoever names the bands has one number for all of them
        mean, std = statistics(file, reader, list(range(bands)))
        made["mean"] = sum(mean) / bands
        made["std"] = (np.square(std).mean() + np.var(mean)).item() ** 0.5
    return made


def fitting(side: int) -> int:
    """Whole patches of a side, at most `LARGEST` pixels; a side smaller than a patch as it is."""
    return min(side, LARGEST) // PATCH * PATCH or side


def statistics(
    file: CubeFile, reader: Any, bands: list[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread of each band in the middle of the picture, without what is missing."""
    _, height, width = file.shape
    tall, wide = min(height, LOOKED_AT), min(width, LOOKED_AT)
    box = Box((height - tall) // 2, (width - wide) // 2, tall, wide)
    pixels = reader.physical(file, file.read(box, bands), bands).double().flatten(1)
    known = (~pixels.isnan()).sum(dim=1).clamp(min=1)
    mean = pixels.nansum(dim=1) / known
    std = ((pixels - mean[:, None]).square().nansum(dim=1) / known).sqrt()
    return tuple(mean.tolist()), tuple(std.clamp(min=1e-6).tolist())
