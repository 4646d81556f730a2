"""Label maps, depth maps and cells from files: indices, units, holes, windows; errors name them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Generator

from multimask import plugins
from multimask.cli.data import reader_of
from multimask.datasets.formats.cells import CellReader
from multimask.datasets.formats.depth_maps import DepthMapReader
from multimask.datasets.formats.geokeys import epsg_geo, write_geotiff
from multimask.datasets.formats.images import ImageReader
from multimask.datasets.formats.label_maps import LabelMapReader
from multimask.datasets.rows import described_cells, with_cells
from multimask.datasets.table import Table
from multimask.datasets.transforms import RandomResizedCrop
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modalities.tabular import Tabular
from multimask.modality import collate
from multimask.tokens import BadSample

CLASSES = np.array([[0, 1, 2, 2], [1, 1, 4, 255]], np.uint8)


def saved(path: Path, array: np.ndarray, colours: bool = False) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        write_geotiff(path, array[None], epsg_geo((10.0, 0.0, 5e5, 0.0, -10.0, 6e6), 32632))
    else:
        picture = Image.fromarray(array)
        if colours:  # a palette whose colours say nothing of the indices
            picture.putpalette([(7 * n) % 256 for n in range(768)])
        picture.save(path)
    return path


@pytest.mark.parametrize("name", ["plain.png", "palette.png", "map.tif", "map.npy", "map.bmp"])
def test_class_numbers_come_as_stored(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, CLASSES, colours="palette" in name)
    reader = LabelMapReader(classes=5)
    assert torch.equal(reader.read(path), torch.from_numpy(CLASSES.astype(np.int64)))
    facts = reader.probe(path)
    assert (facts["height"], facts["width"]) == (2, 4)
    assert facts["epsg"] == (32632 if name.endswith("tif") else None)
    assert torch.equal(LabelMapReader().read(CLASSES), reader.read(path))


def test_several_numbers_may_be_one_class_and_others_unknown() -> None:
    reader = LabelMapReader(numbers=((1,), (2, 4)))
    assert reader.read(CLASSES).tolist() == [[255, 0, 1, 1], [0, 0, 1, 255]]
    back = reader.in_file_numbers(reader.read(CLASSES).numpy())
    assert back.tolist() == [[0, 1, 2, 2], [1, 1, 2, 0]]
    with pytest.raises(ValueError, match="names one number twice"):
        LabelMapReader(numbers=((1,), (1, 2)))


@pytest.mark.parametrize("name", ["depth.png", "depth.tif", "depth.npy"])
def test_depth_has_a_unit_and_holes(tmp_path: Path, name: str) -> None:
    stored = np.array([[1500, 0], [65535, 2]], np.uint16)
    depth = DepthMapReader(unit=0.001).read(saved(tmp_path / name, stored))
    torch.testing.assert_close(
        depth, torch.tensor([[1.5, torch.nan], [65.535, 0.002]]), equal_nan=True
    )
    heights = DepthMapReader(hole=None).read(stored)  # the sea is no hole
    assert heights[0, 1] == 0


def test_what_a_geotiff_calls_nodata_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "dem.tif"
    write_geotiff(path, np.array([[[-9999, 7], [0, 9]]], np.int16), nodata=-9999.0)
    depth = DepthMapReader(hole=None).read(path)
    assert depth.isnan().tolist() == [[True, False], [False, False]]
    assert LabelMapReader().read(path).tolist() == [[255, 7], [0, 9]]


def test_nan_is_a_hole_and_an_unknown_class() -> None:
    array = np.array([[1.0, np.nan]])
    assert DepthMapReader().read(array).isnan().tolist() == [[False, True]]
    assert LabelMapReader().read(array).tolist() == [[1, 255]]


def test_a_cell_may_name_a_window_or_one_map_of_a_stack(tmp_path: Path) -> None:
    whole = np.arange(48, dtype=np.int16).reshape(6, 8)
    path = saved(tmp_path / "dem.tif", whole)
    window = DepthMapReader(hole=None).read(f"{path}#window=2,3,2,4")
    assert torch.equal(window, torch.from_numpy(whole[2:4, 3:7].astype(np.float32)))
    np.save(tmp_path / "maps.npy", np.stack([whole, whole + 1]))
    second = DepthMapReader(hole=None).read(f"{tmp_path}/maps.npy#index=1")
    assert torch.equal(second, torch.from_numpy(whole + 1.0).float())


def test_maps_are_cut_as_the_pictures_beside_them_and_never_mixed() -> None:
    left = np.arange(40) < 20
    picture = np.repeat(np.where(left, 0, 255)[None].repeat(30, 0)[None], 3, 0).astype(np.uint8)
    labels = np.where(left, 1, 3)[None].repeat(30, 0)
    crop = RandomResizedCrop(16)
    for seed in range(20):
        shown = ImageReader(transform=crop).read(picture, Generator().manual_seed(seed))[0]
        found = LabelMapReader(4, transform=crop).read(labels, Generator().manual_seed(seed))
        assert set(found.unique().tolist()) <= {1, 3}
        away = (shown < 3) | (shown > 252)  # not on the edge, where pictures are blurred
        assert away.float().mean() > 0.7
        assert torch.equal((shown < 128)[away], (found == 1)[away])


def test_readers_are_fitted_to_their_tokenizers() -> None:
    labels = reader_of("label-map", LabelMaps(2, 8, 4, numbers=((1,), (2, 4))), augment=False)
    assert labels.read(np.ones((20, 30), int)).shape == (8, 8)
    depth = reader_of("depth-map", DepthMaps(8, 4, unit=0.01, hole=None), augment=False)
    assert depth.read(np.full((20, 30), 50)).unique().tolist() == [0.5]
    cells = reader_of("tabular", Tabular({"age": (60.0, 10.0)}), augment=True)
    assert cells.read({"age": 70, "name": "x"}) == {"age": 70}
    for kind in ("label-map", "depth-map"):
        assert plugins.load("readers", kind)().suffixes


def test_a_csv_of_several_modalities_is_a_table(tmp_path: Path) -> None:
    for n in range(3):
        saved(tmp_path / f"rgb{n}.png", np.full((8, 8, 3), 40 * n, np.uint8))
        saved(tmp_path / f"depth{n}.png", np.full((8, 8), 1000 + n, np.uint16))
        saved(tmp_path / f"seg{n}.png", np.full((8, 8), n, np.uint8), colours=True)
    (tmp_path / "table.csv").write_text(
        "id,rgb,depth,seg,age,grade\n"
        "a,rgb0.png,depth0.png,seg0.png,70,II\n"
        "b,rgb1.png,,seg1.png,,\n"
        "c,,depth2.png,,50,IV\n"
    )
    maps: dict[str, Any] = {
        "rgb": ImagePatches(8, 4),
        "depth": DepthMaps(8, 4, unit=0.001),
        "seg": LabelMaps(3, 8, 4),
    }
    kinds = {"rgb": "image", "depth": "depth-map", "seg": "label-map"}
    readers = {name: reader_of(kinds[name], maps[name], augment=False) for name in maps}
    table = Table.from_csv(tmp_path / "table.csv", tuple(maps), readers)
    table = with_cells(table, "clinic", ["age", "grade"])
    numbers, categories = described_cells(table, "clinic")
    assert numbers == {"age": (60.0, 10.0)}
    assert categories == {"grade": ("II", "IV")}
    maps["clinic"] = Tabular(numbers, categories)
    batch = collate([table[n] for n in range(3)], maps)
    rows = {name: part.rows.tolist() for name, part in batch.parts.items()}
    assert rows == {"rgb": [0, 1], "depth": [0, 2], "seg": [0, 1], "clinic": [0, 2]}
    assert batch.parts["depth"].data[1].unique().tolist() == pytest.approx([1.002])
    assert "age" not in table[0]
    assert not table.check(full=True)[0]


def test_cells_may_come_from_another_csv_by_id(tmp_path: Path) -> None:
    table = Table.from_arrays(image=np.zeros((3, 3, 4, 4)), id=["a", "b", "c"])
    path = tmp_path / "clinic.csv"
    path.write_text("patient,age,grade\nc,61,II\na,,IV\nx,1,\n")
    with pytest.raises(ValueError, match="no column 'id' to find samples by"):
        with_cells(table, "clinic", ["age"], path)
    made = with_cells(table, "clinic", ["age", "grade"], path, key="patient")
    assert [row.get("clinic") for row in made] == [
        {"grade": "IV"},
        None,
        {"age": 61, "grade": "II"},
    ]
    path.write_text("patient,age\na,1\na,2\n")
    with pytest.raises(ValueError, match="patient 'a' occurs 2 times, but ids must differ"):
        with_cells(table, "clinic", ["age"], path, key="patient")


# --- what is wrong is said in one sentence --------------------------------------------------------


def test_numbers_outside_the_classes_name_file_and_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "seg.png", CLASSES)
    with pytest.raises(BadSample, match=r"seg.png: expected classes 0..3 or 255, found \[4\] in 1"):
        LabelMapReader(classes=4).read(path)
    with pytest.raises(BadSample, match="expected whole class numbers, found fractions"):
        LabelMapReader(classes=4).read(np.array([[0.5, 1.0]]))


@pytest.mark.parametrize("reader", [LabelMapReader(), DepthMapReader()])
def test_two_channels_are_refused(tmp_path: Path, reader: Any) -> None:
    picture = saved(tmp_path / "colours.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(BadSample, match=r"colours.png: expected a .* map of one channel, found 3"):
        reader.read(picture)
    with pytest.raises(BadSample, match="of one channel, found 2 channels"):
        reader.read(saved(tmp_path / "two.npy", np.zeros((2, 4, 4))))
    tifffile.imwrite(tmp_path / "two.tif", np.zeros((2, 8, 8), np.uint8), photometric="minisblack")
    with pytest.raises(BadSample, match="of one channel, found 2 channels"):
        reader.read(tmp_path / "two.tif")


@pytest.mark.parametrize("reader", [LabelMapReader(), DepthMapReader()])
def test_damaged_files_are_bad_samples(tmp_path: Path, reader: Any) -> None:
    for name in ("a.png", "a.tif", "a.npy"):
        path = saved(
            tmp_path / name, np.random.default_rng(0).integers(9, size=(64, 64)).astype("u1")
        )
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(BadSample, match=name):
            reader.read(path)
    with pytest.raises(BadSample, match="no such file"):
        reader.read(tmp_path / "none.png")
    with pytest.raises(BadSample, match="expected a window inside 2 x 4 pixels"):
        reader.read(f"{saved(tmp_path / 'b.png', CLASSES)}#window=0,0,9,9")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadSample, match=r"text\.png"):
        reader.read(tmp_path / "text.png")


def test_a_jpeg_is_no_label_map(tmp_path: Path) -> None:
    Image.fromarray(CLASSES).save(tmp_path / "seg.jpg")
    with pytest.raises(BadSample, match="a JPEG, whose packing changes numbers"):
        LabelMapReader().read(tmp_path / "seg.jpg")


def test_maps_of_another_size_are_refused_by_their_tokenizer() -> None:
    with pytest.raises(BadSample, match=r"expected a map of \(8, 8\) pixels, found \(2, 4\)"):
        LabelMaps(5, 8, 4).collate([LabelMapReader().read(CLASSES)])


def test_rows_of_nothing_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match="every cell is empty"):
        CellReader().read({"age": float("nan"), "grade": ""})
    with pytest.raises(BadSample, match="expected a column 'age', found grade"):
        CellReader(("age",)).read({"grade": "II"})
    (tmp_path / "two.csv").write_text("age\n1\n2\n")
    with pytest.raises(BadSample, match="expected one line of cells, found 2"):
        CellReader().read(tmp_path / "two.csv")
    table = Table.from_arrays(image=np.zeros((2, 3, 4, 4)), name=["a", None])
    with pytest.raises(ValueError, match="there is no column 'age' of cells"):
        with_cells(table, "clinic", ["age"])
    with pytest.raises(ValueError, match="has a modality 'image' already"):
        with_cells(table, "image", ["name"])
