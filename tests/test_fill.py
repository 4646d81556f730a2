"""`multimask fill`: what rows lack, as files of the same kind that lie where the others do."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from multimask.cli import main
from multimask.cli.data import many_table
from multimask.cli.fill_report import file_names
from multimask.datasets.cells import csv_cells
from multimask.datasets.formats.cubes import Box
from multimask.datasets.formats.depth_maps import DepthMapReader
from multimask.datasets.formats.geokeys import epsg_geo, write_geotiff
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.raster_write import format_of
from multimask.ensembles import spreads
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.tabular import Tabular
from multimask.modalities.volume import VolumePatches
from multimask.modality import Tokenizer, collate
from multimask.model import MaskedModel

GEO = epsg_geo((10.0, 0.0, 5e5, 0.0, -10.0, 6e6), 32632)
ROOMS: dict[str, Tokenizer] = {
    "rgb": ImagePatches((8, 12), 4),
    "depth": DepthMaps((8, 12), 4, scale="fixed", mean=2.0, std=0.5, unit=0.001),
    "seg": LabelMaps(2, (8, 12), 4, numbers=((1,), (2, 3))),
    "notes": Tabular({"floor": (2.0, 1.0)}, {"light": ("day", "night")}),
}


def saved_model(folder: Path, modalities: dict[str, Tokenizer]) -> Path:
    torch.manual_seed(0)
    model = MaskedModel(modalities, width=24, depth=2, heads=2, decoder_width=16, decoder_heads=2)
    for parameter in model.parameters():  # zeros at the start would answer the same everywhere
        nn.init.normal_(parameter, std=0.1)
    model.save(folder)
    return folder


def png(path: Path, array: np.ndarray, palette: bool = False) -> str:
    path.parent.mkdir(exist_ok=True)
    picture = Image.fromarray(array)
    if palette:
        picture.putpalette([n % 256 for n in range(0, 3 * 256)])
    picture.save(path)
    return str(path.relative_to(path.parents[1]))


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    lines = ["id,rgb,depth,seg,floor,light,house"]
    whole = {"a", "e"}
    for name, lacks in {"a": "", "b": "depth seg", "c": "rgb", "d": "notes depth", "e": ""}.items():
        cells = [name]
        for what, made in {
            "rgb": draw.integers(256, size=(20, 30, 3)).astype(np.uint8),
            "depth": draw.integers(1000, 3000, size=(20, 30)).astype(np.uint16),
            "seg": draw.integers(4, size=(20, 30)).astype(np.uint8),
        }.items():
            there = name in whole or what not in lacks
            file = tmp_path / what / f"{name}.png"
            cells.append(png(file, made, palette=what == "seg") if there else "")
        cells += ["", ""] if "notes" in lacks else ["2", "day"]
        lines.append(",".join([*cells, "north"]))
    lines.append("empty,,,,,,south")
    (tmp_path / "rooms.csv").write_text("\n".join(lines) + "\n")
    saved_model(tmp_path / "model", ROOMS)
    return tmp_path


def run_fill(folder: Path, table: str, out: str = "filled", *more: str) -> int:
    words = ["fill", str(folder / "model"), str(folder / table)]
    return main([*words, "--out", str(folder / out), "--draws", "3", "--device", "cpu", *more])


def test_what_rows_lack_is_written_like_the_files_beside_it(rooms: Path, capsys: Any) -> None:
    before = {file: file.read_bytes() for file in rooms.rglob("*") if file.is_file()}
    assert run_fill(rooms, "rooms.csv") == 0
    assert all(file.read_bytes() == data for file, data in before.items())
    told = capsys.readouterr().out
    assert "filled 2 depth, 1 notes, 1 rgb, 1 seg in 3 of 6 rows" in told
    assert "1 rows have nothing to answer from: empty" in told
    depth = Image.open(rooms / "filled" / "depth" / "b.png")
    assert depth.mode == "I;16"
    assert depth.size == (30, 20)  # of the picture beside it
    numbers = np.asarray(depth)
    assert 500 < np.median(numbers) < 4000  # millimetres, as the others
    seg = Image.open(rooms / "filled" / "seg" / "b.png")
    assert seg.mode == "P"
    assert seg.getpalette() == Image.open(rooms / "seg" / "a.png").getpalette()
    assert set(np.unique(np.asarray(seg)).tolist()) <= {1, 2}  # numbers of files, not of classes
    assert Image.open(rooms / "filled" / "rgb" / "c.png").mode == "RGB"


def test_the_table_lists_every_row_and_opens_again(rooms: Path) -> None:
    assert run_fill(rooms, "rooms.csv") == 0
    cells = csv_cells(rooms / "filled" / "table.csv")
    assert cells["id"] == ["a", "b", "c", "d", "e", "empty"]
    assert cells["depth"][1] == "depth/b.png"
    assert cells["depth"][0] == str(rooms / "depth" / "a.png")
    assert cells["fill.modalities"] == ["", "depth seg", "rgb", "depth notes", "", ""]
    assert cells["fill.problem"] == ["", "", "", "", "", "nothing present"]
    assert cells["house"] == ["north"] * 5 + ["south"]
    assert cells["light"][3] in ("day", "night")
    assert 0 <= float(cells["spread.light"][3]) <= 1
    assert float(cells["spread.floor"][3]) > 0
    assert cells["spread.floor"][0] == ""
    again = many_table(rooms / "filled" / "table.csv", ROOMS)
    assert not np.any([again.missing()[name][:5] for name in ROOMS])
    collate([again[row] for row in range(5)], ROOMS)


def test_the_report_states_how_the_spread_came_about(rooms: Path) -> None:
    assert run_fill(rooms, "rooms.csv", "filled", "--share", "0.4") == 0
    report = json.loads((rooms / "filled" / "fill.json").read_text())
    assert (report["spread"]["draws"], report["spread"]["share"]) == (3, 0.4)
    assert report["filled"] == {"depth": 2, "notes": 1, "rgb": 1, "seg": 1}
    assert report["skipped"] == [["empty", "nothing present"]]
    assert {"id": "b", "modality": "depth", "grid_of": "rgb", "covered": 1.0} in report["files"]
    spread = open_tiff_cube(rooms / "filled" / "depth" / "b.spread.tif")
    assert spread.shape == (1, 20, 30)
    numbers = spread.read(spread.whole, [0])
    assert len(np.unique(numbers)) == 6  # one a token
    assert (numbers > 0).all()


def test_batches_and_repetitions_change_nothing(rooms: Path) -> None:
    assert run_fill(rooms, "rooms.csv", "one", "--batch-size", "1") == 0
    assert run_fill(rooms, "rooms.csv", "many") == 0
    assert run_fill(rooms, "rooms.csv", "many") == 0  # its own earlier answers may be replaced
    for file in (rooms / "one").rglob("*.png"):
        same = rooms / "many" / file.relative_to(rooms / "one")
        off = np.asarray(Image.open(file)).astype(int) - np.asarray(Image.open(same))
        assert abs(off).max() <= 1


def test_only_some_modalities_may_be_filled(rooms: Path) -> None:
    assert run_fill(rooms, "rooms.csv", "filled", "--only", "seg") == 0
    assert not (rooms / "filled" / "depth").exists()
    assert (rooms / "filled" / "seg" / "b.png").exists()


def test_a_modality_that_no_row_has_is_filled_in_a_plain_format(rooms: Path) -> None:
    kept = [line.split(",") for line in (rooms / "rooms.csv").read_text().split()]
    lines = [",".join(cells[:2] + cells[3:]) for cells in kept]  # no column depth
    (rooms / "flat.csv").write_text("\n".join(lines) + "\n")
    assert run_fill(rooms, "flat.csv", "filled", "--only", "depth") == 0
    depth = DepthMapReader().read(rooms / "filled" / "depth" / "a.tif")
    assert depth.shape == (20, 30)
    assert len(list((rooms / "filled" / "depth").glob("?.tif"))) == 5


# --- on the ground, in the body -------------------------------------------------------------------


TILES: dict[str, Tokenizer] = {
    "s2": SpectralPatches(8, 4, 2, wavelengths=(490.0, 842.0), mean=0.2, std=0.1, scale=1e-4),
    "s1": SpectralPatches(8, 4, 2, names=("VV", "VH"), mean=-12.0, std=3.0, scale=0.01),
    "dem": DepthMaps(8, 4, scale="fixed", mean=100.0, std=20.0, hole=None),
    "cover": LabelMaps(4, 8, 4),
}


def tiles(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    for name, low, high, bands in [
        ("s2", 500, 4000, 2), ("s1", -2000, -500, 2), ("dem", 60, 140, 1), ("cover", 0, 4, 1),
    ]:  # fmt: skip
        dtype = np.uint8 if name == "cover" else np.int16
        nm = (490.0, 842.0) if name == "s2" else None
        bands_of = ("VV", "VH") if name == "s1" else None
        pixels = draw.integers(low, high, size=(bands, 16, 24)).astype(dtype)
        write_geotiff(folder / f"{name}.tif", pixels, GEO, nm, bands_of)
    lines = ["id,s2,s1,dem,cover"]
    for row, lacks in enumerate(["", "s1", "dem cover", "s2", "cover s2 dem"]):
        top, left = 8 * (row // 3), 8 * (row % 3)
        cells = ["" if name in lacks else f'"{name}.tif#window={top},{left},8,8"' for name in TILES]
        lines.append(",".join([f"w{row}", *cells]))
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
    saved_model(folder / "model", TILES)
    return folder


def test_maps_of_the_ground_lie_where_the_rows_other_maps_do(tmp_path: Path) -> None:
    assert run_fill(tiles(tmp_path), "tiles.csv") == 0
    for name, row, top, left, dtype, bands in [
        ("s1", 1, 0, 8, "int16", 2),
        ("dem", 2, 0, 16, "int16", 1),
        ("cover", 2, 0, 16, "uint8", 1),
        ("s2", 3, 8, 0, "int16", 2),
        ("dem", 4, 8, 8, "int16", 1),
    ]:
        for middle in ("", ".spread"):
            file = open_tiff_cube(tmp_path / "filled" / name / f"w{row}{middle}.tif")
            assert file.geo is not None
            assert file.geo.epsg == 32632
            assert file.geo.transform == GEO.at(top, left).transform
            assert file.shape[1:] == (8, 8)
        file = open_tiff_cube(tmp_path / "filled" / name / f"w{row}.tif")
        assert (file.shape[0], str(file.dtype)) == (bands, dtype)
    s2 = open_tiff_cube(tmp_path / "filled" / "s2" / "w3.tif")
    assert s2.wavelengths == (490.0, 842.0)
    assert 500 < np.median(s2.read(s2.whole, [0, 1])) < 4000  # reflectance x 10000, as the others
    assert open_tiff_cube(tmp_path / "filled" / "s1" / "w1.tif").names == ("VV", "VH")


def test_maps_beside_bands_are_cut_like_them_where_files_are_larger(tmp_path: Path) -> None:
    (tiles(tmp_path) / "large.csv").write_text(
        "id,s2,dem\na,s2.tif,\nb,,dem.tif\nc,s2.tif,dem.tif\n"
    )
    assert run_fill(tmp_path, "large.csv", "filled", "--only", "dem,s2") == 0
    table = many_table(tmp_path / "large.csv", TILES)
    middle: Any = table[2]
    whole = DepthMapReader(hole=None).read(tmp_path / "dem.tif")
    assert torch.equal(middle["dem"], whole[4:12, 8:16])
    for name, row in (("dem", "a"), ("s2", "b")):
        for middle in ("", ".spread"):  # put together of six windows
            file = open_tiff_cube(tmp_path / "filled" / name / f"{row}{middle}.tif")
            assert file.geo is not None
            assert file.geo.transform == GEO.transform
            assert file.shape[1:] == (16, 24)
            assert not np.isnan(file.read(file.whole, [0])).any()
        assert len(list((tmp_path / "filled" / name).iterdir())) == 2
    # the middle window alone is answered as it is as a part of the scene
    (tmp_path / "one.csv").write_text('id,s2,dem\na,"s2.tif#window=8,8,8,8",\n')
    assert run_fill(tmp_path, "one.csv", "one", "--only", "dem") == 0
    whole, part = (tmp_path / f"{out}/dem/a.tif" for out in ("filled", "one"))
    numbers = open_tiff_cube(whole).read(Box(8, 8, 8, 8), [0])
    off = numbers - open_tiff_cube(part).read(Box(0, 0, 8, 8), [0]).astype(int)
    assert abs(off).max() <= 1


def test_windows_that_cannot_be_filled_are_unknown_in_their_scene(tmp_path: Path) -> None:
    file = open_tiff_cube(tiles(tmp_path) / "s2.tif")
    pixels = file.read(file.whole, [0, 1]).astype(np.float32)
    pixels[:, :8, :8] = np.nan
    write_geotiff(tmp_path / "edge.tif", pixels, GEO, (490.0, 842.0))
    (tmp_path / "edge.csv").write_text(
        "id,s2,dem,cover\na,edge.tif,,\nb,s2.tif,dem.tif,cover.tif\n"
    )
    assert run_fill(tmp_path, "edge.csv", "filled", "--only", "dem,cover") == 0
    corner, rest = np.s_[:8, :8], np.s_[8:, 8:]
    for name in ("dem", "cover"):
        spread = open_tiff_cube(tmp_path / "filled" / name / "a.spread.tif")
        sure = spread.read(spread.whole, [0])[0]
        assert np.isnan(sure[corner]).all()
        assert np.isfinite(sure[rest]).all()
    made = open_tiff_cube(tmp_path / "filled" / "cover" / "a.tif")
    classes = made.read(made.whole, [0])[0]
    assert (classes[corner] == 255).all()
    assert (classes[rest] < 4).all()


def test_masks_of_true_and_false_are_filled_as_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((8, 8), bool))
    like = format_of(str(tmp_path / "mask.npy"))
    assert like is not None
    assert like.typed(np.array([[[0.0, 1.0, np.nan]]]), 255.0).tolist() == [[[0, 1, 255]]]


def test_files_that_do_not_say_their_bands_are_told_by_the_model(
    tmp_path: Path, capsys: Any
) -> None:
    folder = tiles(tmp_path)
    for name in ("s1", "s2"):
        file = open_tiff_cube(folder / f"{name}.tif")
        pixels = file.read(file.whole, [0, 1])
        write_geotiff(folder / f"{name}.tif", pixels, GEO, names=("bands", "bands"))
    assert run_fill(folder, "tiles.csv", "filled", "--only", "dem") == 0
    assert "filled 2 dem in 2 of 5 rows" in capsys.readouterr().out


def test_scans_are_written_on_the_grid_and_in_the_numbers_of_the_others(
    tmp_path: Path, capsys: Any
) -> None:
    draw = np.random.default_rng(0)
    affine = np.array([[0, -2.0, 0, 30], [1.5, 0, 0, -40], [0, 0, 3.0, 5], [0, 0, 0, 1]])
    lines = ["id,t1,flair"]
    for row, lacks in enumerate(["", "flair", "t1"]):
        cells = [f"p{row}"]
        for name in ("t1", "flair"):
            voxels = (500 + 100 * draw.standard_normal((10, 9, 8))).astype(np.float32)
            moved = affine.copy()
            moved[:3, 3] += row
            nibabel.save(nibabel.Nifti1Image(voxels, moved), tmp_path / f"{name}{row}.nii.gz")
            cells.append("" if name in lacks else f"{name}{row}.nii.gz")
        lines.append(",".join(cells))
    (tmp_path / "brains.csv").write_text("\n".join(lines) + "\n")
    saved_model(
        tmp_path / "model",
        {name: VolumePatches(8, 4, partial="repeat") for name in ("t1", "flair")},
    )
    assert run_fill(tmp_path, "brains.csv") == 0
    assert "answers cover 71% of their files on average" in capsys.readouterr().out
    report = json.loads((tmp_path / "filled" / "fill.json").read_text())
    assert report["files"][0]["covered"] == pytest.approx(8**3 / (8 * 9 * 10), abs=1e-4)
    for name, row, other in (("flair", 1, "t1"), ("t1", 2, "flair")):
        source: Any = nibabel.load(tmp_path / f"{other}{row}.nii.gz")
        for middle in ("", ".spread"):
            made: Any = nibabel.load(tmp_path / "filled" / name / f"p{row}{middle}.nii.gz")
            np.testing.assert_allclose(made.affine, source.affine)
            assert made.shape == source.shape
        made = nibabel.load(tmp_path / "filled" / name / f"p{row}.nii.gz")
        known = made.get_fdata()[made.get_fdata() != 0]  # the model's box is smaller than the scan
        assert 300 < np.median(known) < 700


# --- what is wrong --------------------------------------------------------------------------------


def test_ids_that_occur_twice_are_refused(rooms: Path, capsys: Any) -> None:
    text = (rooms / "rooms.csv").read_text().replace("\nb,", "\na,")
    (rooms / "twice.csv").write_text(text)
    assert run_fill(rooms, "twice.csv") == 2
    assert "the id 'a' occurs 2 times, but ids must differ" in capsys.readouterr().err


def test_label_numbers_outside_the_classes_are_listed_and_the_row_skipped(
    tmp_path: Path, capsys: Any
) -> None:
    png(tmp_path / "seg" / "a.png", np.full((8, 8), 7, np.uint8))
    png(tmp_path / "seg" / "b.png", np.full((8, 8), 1, np.uint8))
    png(tmp_path / "rgb" / "b.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "t.csv").write_text("id,rgb,seg\na,,seg/a.png\nb,,seg/b.png\nc,rgb/b.png,\n")
    saved_model(tmp_path / "model", {"rgb": ImagePatches(8, 4), "seg": LabelMaps(3, 8, 4)})
    assert run_fill(tmp_path, "t.csv") == 0
    told = capsys.readouterr().out
    assert "filled 1 rgb, 1 seg in 2 of 3 rows" in told
    assert "expected classes 0..2 or 255, found [7] in 64 pixels" in told


def test_nothing_is_written_over_sources_or_into_a_folder_of_other_things(
    rooms: Path, capsys: Any
) -> None:
    assert run_fill(rooms, "rooms.csv", ".") == 2
    assert "holds other things; name a new folder" in capsys.readouterr().err
    (rooms / "fill.json").write_text("{}")
    assert run_fill(rooms, "rooms.csv", ".") == 2
    assert "which is read; name a new folder" in capsys.readouterr().err


def test_tables_of_nothing_and_unknown_modalities_are_refused(rooms: Path, capsys: Any) -> None:
    (rooms / "other.csv").write_text("id,name\na,x\n")
    assert run_fill(rooms, "other.csv") == 2
    assert "lists nothing of depth, notes, rgb, seg" in capsys.readouterr().err
    assert run_fill(rooms, "rooms.csv", "filled", "--only", "sonar") == 2
    assert "expected at least one of" in capsys.readouterr().err
    for words in (["--draws", "1"], ["--share", "1"]):
        assert run_fill(rooms, "rooms.csv", "filled", *words) == 2
        assert "must be at least 2 and share" in capsys.readouterr().err


def test_file_names_differ_where_ids_do() -> None:
    names = file_names(["a/b.png", "a_b", "A_B.nii.gz", "..", "x#window=0,8,8,8"])
    assert len({name.lower() for name in names.values()}) == 5
    assert names["x#window=0,8,8,8"] == "x_window=0,8,8,8"


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--batch-size", "0", "0 must be at least 1"),
        ("--share", "2", "share=2.0 above 0 and below"),
    ],
)
def test_flags_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: Any, flag: str, value: str, told: str
) -> None:
    (tiles(tmp_path) / "whole.csv").write_text("id,s2,dem\nb,s2.tif,dem.tif\n")
    assert run_fill(tmp_path, "whole.csv", "filled", "--only", "dem", flag, value) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "filled").exists()


def test_equal_answers_do_not_spread() -> None:
    torch.manual_seed(0)
    maps: dict[str, Tokenizer] = {"rgb": ImagePatches(8, 4), "seg": LabelMaps(3, 8, 4)}
    model = MaskedModel(maps, width=24, depth=2, heads=2, decoder_width=16, decoder_heads=2).eval()
    batch = collate([{"id": "a", "rgb": torch.rand(3, 8, 8)}], maps)
    for parameter in model.decoder.parameters() if model.decoder else ():
        nn.init.zeros_(parameter)  # answers then do not look at what is visible
    answer = model.reconstruct(batch, targets=["seg"]).restored["seg"].values
    found = spreads(model, batch, ["seg"], {"seg": answer}, draws=4)["seg"]
    assert found.std.max() == 0
    assert found.agreeing.min() == 1
