"""The spectral experiment as a person runs it: made scenes, files, stacks, damaged ones."""

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from multimask.checkpoints import load
from multimask.cli import main
from multimask.cli.data import model_table, tokenizer_of
from multimask.datasets.formats.geokeys import write_geotiff
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.layouts import land_cover
from multimask.datasets.synthetic_spectral import GRID
from multimask.evaluation import embed
from multimask.modalities.spectral import SpectralPatches
from multimask.tokens import BadSample

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "experiments" / "spectral.py"))
SMALL: dict[str, Any] = {
    "epochs": 1, "batch_size": 16, "width": 24, "depth": 1, "heads": 2, "decoder_width": 16,
    "decoder_heads": 2,
}  # fmt: skip
NM = (485.0, 560.0, 660.0, 835.0)


def carried_out(**flags: Any) -> dict[str, Any]:
    return SCRIPT["main"](SCRIPT["Config"](**{**SMALL, **flags}))


def folder_of(path: Path, count: int, bands: int = 4, **written: Any) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(100, 3000, (bands, 24, 24)).astype(np.uint16)
        write_geotiff(path / f"{number:03d}.tif", pixels, **written)
    return path


def test_made_scenes_leave_a_whole_run_folder(tmp_path: Path) -> None:
    metrics = carried_out(out=tmp_path / "run", limit=16, also=("520+610",))
    for name in ("reconstructions.png", "masks.png", "false_colour.png", "model/config.json"):
        assert (tmp_path / "run" / name).is_file(), name
    assert metrics["samples"] == metrics["test_samples"] == 16
    assert set(metrics["other_bands"]) == {"520+610"}
    written = json.loads((tmp_path / "run/metrics.json").read_text())
    assert written["other_bands"] == metrics["other_bands"]
    tokenizer = load(tmp_path / "run/model").tokenizers["cube"]
    assert isinstance(tokenizer, SpectralPatches)
    assert tokenizer.bands == 12  # of each scene; in all there are many
    assert {round(nm, 1) for nm in tokenizer.wavelengths} <= set(GRID)


def test_made_scenes_and_files_have_settings_of_their_own() -> None:
    completed, config = SCRIPT["completed"], SCRIPT["Config"]
    made, files = completed(config()), completed(config(data=ROOT))
    assert (made.epochs, made.batch_size, made.image_size, made.normalise) == (12, 16, 16, False)
    assert (files.epochs, files.batch_size, files.image_size, files.normalise) == (
        40,
        32,
        None,
        None,
    )
    asked = completed(config(epochs=3, batch_size=8, lr=0.0, data=ROOT))
    assert (asked.epochs, asked.batch_size, asked.lr) == (3, 8, 0.0)
    small, chosen = completed(config(size="small")), completed(config(size="small", width=48))
    assert (small.width, small.decoder_width, chosen.width) == (None, None, 48)  # the size's own


def test_land_cover_with_a_subset_of_bands(tmp_path: Path) -> None:
    land_cover.write_fake(tmp_path / "data", scenes=1)
    metrics = carried_out(
        data=tmp_path / "data", layout="land-cover", out=tmp_path / "run", limit=24, patch=4,
        only=("B04", "B08", "B03"), also=("B04+B03",), projections="bands",
    )  # fmt: skip
    tokenizer = load(tmp_path / "run/model").tokenizers["cube"]
    assert isinstance(tokenizer, SpectralPatches)
    assert (tokenizer.wavelengths, tokenizer.size) == ((665.0, 842.0, 560.0), (8, 8))
    assert tokenizer.scale == 1e-4
    assert 0 < np.mean(tokenizer.mean) < 1  # reflectance
    assert metrics["probe_accuracy"] is not None
    assert metrics["other_bands"]["B04+B03"]["probe_accuracy"]


def test_the_saved_model_reads_files_as_they_were_read(tmp_path: Path) -> None:
    """Wavelengths, scale and nodata that files do not state come back with the model."""
    data = folder_of(tmp_path / "data", 12)
    carried_out(
        data=data, out=tmp_path / "run", bands=tuple(map(str, NM)), nodata=150.0, batch_size=8
    )
    model = load(tmp_path / "run/model")
    tokenizer = model.tokenizers["cube"]
    assert isinstance(tokenizer, SpectralPatches)
    assert (tokenizer.wavelengths, tokenizer.nodata) == (NM, 150.0)
    table = model_table(model, data)
    again: Any = table[0]["cube"]["pixels"]
    stored = torch.from_numpy(tifffile.imread(data / "000.tif").astype(np.float32))
    assert torch.equal(again.isnan(), stored == 150)
    assert embed(model, table).features.shape == (12, 24)


def fitted(**flags: Any) -> SpectralPatches:
    """The tokenizer that the experiment would make, without training."""
    config = SCRIPT["Config"](**flags)
    table = SCRIPT["opened"](config)
    return SCRIPT["fitted"](SCRIPT["looked_at"](table, "cube"), config, 1.0)


def test_stacks_without_wavelengths_go_by_name(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", 3, bands=3)
    tokenizer = fitted(data=data, bands=("DAPI", "GFP", "RFP"))
    assert (tokenizer.wavelengths, tokenizer.names) == ((), ("DAPI", "GFP", "RFP"))
    assert (tokenizer.size, tokenizer.patch, tokenizer.bands) == ((24, 24), (8, 8), 3)


def test_spectra_of_one_pixel(tmp_path: Path) -> None:
    np.save(tmp_path / "spectra.npy", np.random.default_rng(0).random((30, 20, 1, 1)))
    nm = tuple(str(400 + 10 * band) for band in range(20))
    tokenizer = fitted(data=tmp_path / "spectra.npy", bands=nm, group=4)
    assert (tokenizer.size, tokenizer.patch, tokenizer.grid) == ((1, 1), (1, 1), (5, 1, 1))


def test_a_listing_may_name_windows_of_a_scene(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", 1, wavelengths=NM)
    lines = [f'"000.tif#window={row},8,8,8"' for row in (0, 8, 16)]
    (data / "windows.csv").write_text("\n".join(["file", *lines]) + "\n")
    table = SCRIPT["opened"](SCRIPT["Config"](data=data / "windows.csv"))
    whole = SpectralReader().read(data / "000.tif")["pixels"]
    assert torch.equal(table[1]["cube"]["pixels"], whole[:, 8:16, 8:16])
    (data / "windows.csv").write_text("file\n999.tif#window=0\n")
    with pytest.raises(ValueError, match="not one of the files"):
        SCRIPT["opened"](SCRIPT["Config"](data=data / "windows.csv"))


def test_statistics_are_those_of_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pixels = np.arange(2 * 24 * 24, dtype=np.float32).reshape(2, 24, 24)
    pixels[1, :12] = np.nan
    write_geotiff(tmp_path / "data/a.tif", pixels, wavelengths=NM[:2])
    tokenizer = fitted(data=tmp_path / "data")
    known = [band[~np.isnan(band)].astype(np.float64) for band in pixels]
    assert tokenizer.mean == pytest.approx([band.mean() for band in known])
    assert tokenizer.std == pytest.approx([band.std() for band in known])


def test_a_table_with_damaged_files_trains_and_lists_exactly_those(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", 60, wavelengths=NM)
    whole = (data / "004.tif").read_bytes()
    (data / "004.tif").write_bytes(whole[: len(whole) // 2])
    (data / "017.tif").write_bytes(b"")
    missing = np.full((4, 24, 24), np.nan, np.float32)
    write_geotiff(data / "031.tif", missing, wavelengths=NM)
    metrics = carried_out(data=data, out=tmp_path / "run", epochs=2, held_out=0.2)
    wanted = {"004.tif", "017.tif", "031.tif"}
    assert {name for name, _ in metrics["skipped"]} == wanted
    assert np.isfinite([metrics["loss_first"], metrics["loss_last"], metrics["loss_val"]]).all()
    with (tmp_path / "run/log/skipped.csv").open() as file:
        assert {row["id"] for row in csv.DictReader(file)} == wanted


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"bands": ("DAPI",)}, "made scenes are seen by wavelengths"),
        ({"layout": "atlantis", "data": ROOT}, "must be one of eurosat-ms"),
        ({"image_size": (32, 24)}, "made scenes are square"),
    ],
)
def test_mistakes_are_one_sentence(flags: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        carried_out(out=tmp_path / "run", limit=16, **flags)


def test_files_that_do_not_say_what_their_bands_are(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", 4)
    with pytest.raises(ValueError, match="do not say what their bands are; name them: --bands"):
        carried_out(data=data, out=tmp_path / "run")


# --- the command line -----------------------------------------------------------------------------

MASKERS = ("random", "tube", "slab", "channel-patch", "block", "grid", "running-cell")


@pytest.mark.parametrize("masker", MASKERS)
def test_every_masker_is_drawn_with_its_counts(
    tmp_path: Path, masker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of(tmp_path / "data", 1, wavelengths=NM)
    words = ["--data", str(data / "000.tif"), "--out", str(tmp_path / "masks.png")]
    words += ["--set", "size=24,patch=6", "--masker", masker]
    assert main(["masks", "--kind", "spectral", *words]) == 0
    assert (tmp_path / "masks.png").is_file()
    said = capsys.readouterr().out
    visible, hidden = (int(said.split(word)[0].split()[-1]) for word in ("visible", "hidden"))
    assert visible + hidden == 4 * 4 * 4
    if masker != "channel-patch":  # which draws its own number
        assert visible == 16


def test_a_file_tells_what_suits_it(tmp_path: Path) -> None:
    """A tokenizer for a file is made from its header, where the flags leave it open."""
    pixels = np.zeros((4, 30, 18), np.float32)
    pixels[1], pixels[3, :15] = 2.0, np.nan
    write_geotiff(tmp_path / "a.tif", pixels, wavelengths=NM)
    made = tokenizer_of("spectral", ["size=16"], tmp_path / "a.tif")
    assert isinstance(made, SpectralPatches)
    assert (made.size, made.patch, made.bands, made.wavelengths) == (16, (8, 8), 4, NM)
    assert made.mean == (0.0, 2.0, 0.0, 0.0)
    write_geotiff(tmp_path / "b.tif", pixels)
    unnamed = tokenizer_of("spectral", [], tmp_path / "b.tif")
    assert isinstance(unnamed, SpectralPatches)
    assert (unnamed.size, unnamed.wavelengths) == ((24, 16), ())
    with pytest.raises(BadSample, match="nothing says what its 4 bands are"):
        unnamed.collate([SpectralReader(size=unnamed.size).read(tmp_path / "b.tif")])


def test_fields_that_hold_several_values_are_given_one_after_another() -> None:
    made = tokenizer_of("spectral", ["size=8x16", "wavelengths=490", "560", "names=VV", "patch=4"])
    assert made == SpectralPatches((8, 16), 4, wavelengths=(490.0, 560.0), names=("VV",))
    with pytest.raises(ValueError, match="write name=value"):
        tokenizer_of("spectral", ["560"])
