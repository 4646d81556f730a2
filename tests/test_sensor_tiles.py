"""Scenes of several sensors: windows that lie on each other, blocks that stay on one side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimask.datasets.formats.depth_maps import DepthMapReader
from multimask.datasets.formats.geokeys import write_geotiff
from multimask.datasets.layouts.sensor_tiles import sensor_tiles, write_sensor_tiles
from multimask.tokens import BadSample


def test_sensors_become_columns_of_windows(tmp_path: Path) -> None:
    write_sensor_tiles(tmp_path, scenes=2, size=32)
    (tmp_path / "tile_1" / "DEM.tif").unlink()
    table = sensor_tiles(tmp_path, ["s2", "radar=S1", "dem"], 8, 16, classes="lulc")
    assert len(table) == 32
    assert list(table.readers) == ["s2", "radar", "dem"]
    assert table.missing()["dem"].sum() == 16  # a scene lacks it
    sample: Any = table[0]
    assert sample["s2"]["pixels"].shape == (12, 8, 8)
    assert 0 < sample["s2"]["pixels"].mean() < 1  # reflectance
    assert sample["s2"]["wavelengths"][1] == 490
    assert sample["dem"]["names"] == ("dem",)
    assert sample["label"] in (0, 1, 2)
    sides: dict[str, set[str]] = {}
    for block, split in zip(table.columns["block"], table.columns["split"], strict=True):
        sides.setdefault(block, set()).add(split)
    assert len(sides) == 8
    assert all(len(found) == 1 for found in sides.values())
    heights = sensor_tiles(tmp_path, ["dem"], 8, 16, readers={"dem": DepthMapReader(hole=None)})
    first: Any = heights[0]
    assert first["dem"].shape == (8, 8)


def test_what_cannot_be_found_or_fitted_is_said(tmp_path: Path) -> None:
    write_sensor_tiles(tmp_path, scenes=1, size=32)
    with pytest.raises(ValueError, match="no scene has a TIFF for the sensor 'sar'"):
        sensor_tiles(tmp_path, ["sar"])
    with pytest.raises(ValueError, match="several files begin with 's'"):
        sensor_tiles(tmp_path, ["s"])
    with pytest.raises(ValueError, match="block=20 must be a multiple of window=16"):
        sensor_tiles(tmp_path, ["s2"], block=20)
    with pytest.raises(ValueError, match="fewer than two blocks of 32 pixels"):
        sensor_tiles(tmp_path, ["s2"])
    with pytest.raises(ValueError, match="no scene has a TIFF"):
        sensor_tiles(tmp_path / "nowhere", ["s2"])
    write_geotiff(tmp_path / "tile_0" / "DEM.tif", np.zeros((1, 16, 16), np.int16))
    with pytest.raises(BadSample, match=r"expected rasters of one grid, found .* 16 x 16"):
        sensor_tiles(tmp_path, ["s2", "dem"], 8, 16)
