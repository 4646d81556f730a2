"""Pictures: what is drawn is what is there, enlarged to be seen."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL.Image import open as open_picture
from torch import Generator

from multimask import Count, MaskedModel, Masker, Target, Uniform, collate, pictures
from multimask.curves import log_ticks, ticks
from multimask.modalities.image import ImagePatches
from multimask.pictures import SIDE, curves, fitted, grid, masks, reconstruction_rows
from multimask.tokens import Batch, Part, Tokens


def model(target: str = "none") -> MaskedModel:
    torch.manual_seed(0)
    tokenizers = {"a": ImagePatches(8, 4, channels=1), "b": ImagePatches(16, 4)}
    return MaskedModel(
        tokenizers, width=16, depth=1, heads=2, decoder_width=16, target=Target(target)
    )  # type: ignore[arg-type]


def batch(made: MaskedModel) -> Batch:
    generator = Generator().manual_seed(0)
    a, b = torch.rand(1, 8, 8, generator=generator), torch.rand(3, 16, 16, generator=generator)
    return collate([{"id": "whole", "a": a, "b": b}, {"id": "half", "b": b}], made.tokenizers)


MASKER = Masker(Uniform(), Count(6, 14))


def cell(sheet: np.ndarray, picture: np.ndarray) -> tuple[int, int] | None:
    """Where a picture stands in a sheet."""
    tall, wide = picture.shape[:2]
    for top in range(sheet.shape[0] - tall + 1):
        for left in range(sheet.shape[1] - wide + 1):
            if (sheet[top, left] == picture[0, 0]).all():
                part = sheet[top : top + tall, left : left + wide]
                if (part == picture).all():
                    return top, left
    return None


def test_originals_visible_and_answers_stand_side_by_side() -> None:
    made = model()
    sheet = reconstruction_rows(made, batch(made), MASKER)
    assert sheet is not None
    tokens = made.tokenize(batch(made)).modalities["b"]
    drawn = made.reconstruct(batch(made), MASKER)
    tokenizer = made.tokenizers["b"]
    assert isinstance(tokenizer, ImagePatches)
    for row in (0, 1):
        one = Tokens(tokens.values[row : row + 1], tokens.coords, torch.tensor([0]), grid=(4, 4))
        original = cell(sheet, fitted(tokenizer.picture(one)))
        shown = cell(sheet, fitted(tokenizer.picture(one, drawn.visible["b"][row])))
        assert original is not None
        assert shown is not None
        assert original[0] == shown[0]
        assert original[1] < shown[1]


def test_what_leaks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    plain = pictures.written
    monkeypatch.setattr(
        pictures, "written", lambda c, labels: said.extend(t[2] for t in labels) or plain(c, labels)
    )
    for target in ("none", "patch"):
        reconstruction_rows(model(target), batch(model()), MASKER)
        leaks = [text for text in said if "true patch statistics put back" in text]
        assert len(leaks) == (2 if target == "patch" else 0)
    assert said.count("missing") == 6  # the half row's a, three cells, twice
    assert {"original", "visible", "reconstructed", "whole", "half"} <= set(said)


def test_masks_are_those_of_the_epochs() -> None:
    made = model()
    sheet = masks(made, batch(made), MASKER, draws=3)
    assert sheet is not None
    wider = masks(made, batch(made), MASKER, draws=4)
    assert wider is not None
    assert wider.shape[1] > sheet.shape[1]
    again = masks(made, batch(made), MASKER, draws=3)
    assert again is not None
    assert (sheet == again).all()


def test_a_tokenizer_that_does_not_draw_is_left_out() -> None:
    class Plain:
        token_dim = coord_dim = 1
        num_tokens = 4

        def __call__(self, part: Part) -> Tokens:
            return Tokens(part.data, torch.zeros(1, 4, 1), part.rows)

    made = MaskedModel({"x": Plain()}, width=16, depth=1, heads=2, decoder_width=16)
    samples = collate([{"x": torch.zeros(4, 1)}], made.tokenizers)
    assert reconstruction_rows(made, samples, Masker(Uniform(), Count(2, 2))) is None
    assert masks(made, samples, Masker(Uniform(), Count(2, 2))) is None


def test_small_pictures_grow_in_whole_steps_and_large_ones_shrink() -> None:
    small = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    large = fitted(small)
    times = SIDE // 8
    assert large.shape == (8 * times, 6 * times, 3)
    assert (large[::times, ::times] == small).all()
    assert max(fitted(np.zeros((900, 300, 3), np.uint8)).shape) == pictures.LARGEST


def test_a_grid_of_nothing_is_still_a_picture() -> None:
    assert grid([]).shape[2] == 3
    assert grid([[None, None]], heads=("x", "y")).shape[1] > 2 * SIDE


def test_a_chart_shows_its_lines() -> None:
    line = [(1, 2.0), (2, 1.0), (3, float("nan")), (4, 0.5)]
    chart = curves({"loss": line, "other": [(1, 1.0)]}, "title", "epoch", "y")
    assert (chart.reshape(-1, 3) == (0x00, 0x72, 0xB2)).all(axis=1).any()  # the first colour
    assert (chart.reshape(-1, 3) == (0xD5, 0x5E, 0x00)).all(axis=1).any()  # the second
    for empty in ({}, {"loss": []}, {"loss": [(0, 0.0)]}):
        assert curves(empty, log=True).shape == chart.shape


def test_ticks_are_round() -> None:
    assert ticks(0.3, 9.1) == [2.0, 4.0, 6.0, 8.0]
    assert ticks(1, 4, wanted=8, least=1.0) == [1.0, 2.0, 3.0, 4.0]
    assert log_ticks(-3.0, 2.0) == [-3, -2, -1, 0, 1, 2]
    within = [round(10**exponent, 6) for exponent in log_ticks(-0.3, 0.3)]
    assert len(within) >= 4
    assert all(0.5 <= y <= 2 for y in within)


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    pictures.save(picture, tmp_path / "below" / "x.png")
    assert [file.name for file in (tmp_path / "below").iterdir()] == ["x.png"]
    assert (np.asarray(open_picture(tmp_path / "below" / "x.png")) == picture).all()
