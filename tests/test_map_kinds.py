"""Label maps, depth maps and rows of a table: contracts, bad input, errors in closed form."""

import math
from typing import Any

import pytest
import torch

from multimask.modalities.depth_maps import DepthAdapter, DepthMaps, trimmed
from multimask.modalities.label_maps import LabelAdapter, LabelMaps
from multimask.modalities.tabular import Tabular, TabularAdapter
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.testing.modalities import check_modality
from multimask.tokens import BadSample, Part

LABELS = LabelMaps(classes=5, size=(8, 12), patch=4, stride=2)
DEPTH = DepthMaps(size=(8, 12), patch=4)
TABLE = Tabular(
    {"age": (60.0, 10.0), "volume": (30.0, 5.0)}, {"grade": ("II", "III", "IV"), "sex": ("f", "m")}
)


def labels(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.randint(0, 5, (4, 6)).repeat_interleave(2, 0).repeat_interleave(2, 1)


def depth(seed: int) -> Any:
    torch.manual_seed(seed)
    return (1 + torch.rand(8, 12)).tolist()  # a list: holes within tokens are allowed


def test_they_keep_the_contract_of_modalities() -> None:
    check_modality(LABELS, [labels(seed) for seed in range(3)])
    check_modality(DEPTH, [depth(seed) for seed in range(3)])
    rows = [
        {"age": 75, "volume": "31.5", "grade": "IV", "sex": "f"},
        {"age": 50.0, "grade": "II"},
        {"age": "n/a", "volume": 20.0, "sex": "m"},
    ]
    check_modality(TABLE, rows)


# --- labels ---------------------------------------------------------------------------------------


def test_unknown_pixels_are_neither_read_nor_scored() -> None:
    label = labels(0)
    label[:4, :4] = 255
    label[4, 4] = 255
    tokens = LABELS(Part(LABELS.collate([label]), torch.arange(1)))
    assert tokens.valid is not None
    assert tokens.valid.tolist() == [[False, True, True, True, True, True]]
    back = LABELS.untokenize(tokens)[0]
    assert torch.equal(back[:4, :4], torch.full((4, 4), 255))
    adapter = LabelAdapter(LABELS, 8, 8)
    logits = torch.randn(2, LABELS.token_dim * 5)
    truth = torch.tensor([[-1, 2, 2, 2], [2, 2, 2, 2]])
    other = logits.clone()
    other[0, :5] += 100  # of the unknown pixel
    assert torch.equal(adapter.error(logits, truth), adapter.error(other, truth))


def test_equal_logits_cost_the_log_of_the_number_of_classes() -> None:
    adapter = LabelAdapter(LABELS, 8, 8)
    error = adapter.error(torch.zeros(3, LABELS.token_dim * 5), torch.zeros(3, 4).long())
    torch.testing.assert_close(error, torch.full((3,), math.log(5)))
    nothing = adapter.error(torch.zeros(1, LABELS.token_dim * 5), torch.full((1, 4), -1))
    assert nothing.tolist() == [0.0]


def test_a_sure_answer_is_the_class_it_names() -> None:
    tokens = LABELS(Part(LABELS.collate([labels(1)]), torch.arange(1)))
    sure = torch.nn.functional.one_hot(tokens.values[0], 5).float().flatten(1) * 50
    adapter = LabelAdapter(LABELS, 8, 8)
    assert torch.equal(adapter.restore(sure, tokens.values[0]).long(), tokens.values[0])
    assert adapter.error(sure, tokens.values[0]).max() < 1e-6
    total = adapter.probabilities(sure).sum(dim=-1)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (torch.full((8, 12), 5), r"expected classes 0..4 or 255, found \[5\] in 96 pixels"),
        (torch.full((8, 12), -3), r"found \[-3\]"),
        (torch.full((8, 12), 0.5), "whole class numbers"),
        (torch.zeros(3, 8, 12), "found \\(3, 8, 12\\)"),
        (torch.zeros(4, 4), "resize with nearest neighbours"),
    ],
)
def test_label_maps_refuse_what_is_no_map_of_their_classes(label: Any, told: str) -> None:
    with pytest.raises(BadSample, match=told):
        LABELS.collate([label])


# --- depth ----------------------------------------------------------------------------------------


def test_the_scale_is_that_of_the_middle_of_the_values() -> None:
    """Ten numbers: one is cut off at each end, so an outlier changes nothing."""
    row = torch.tensor([[5.0, 1, 2, 3, 4, 6, 7, 8, 9, 1000]])
    mean, variance = trimmed(row)
    assert mean.item() == pytest.approx(5.5)
    assert variance.item() == pytest.approx(6.0)  # of 2..9, unbiased
    holes = torch.cat((row, torch.full((1, 3), torch.nan)), dim=1)
    assert trimmed(holes)[0].item() == pytest.approx(5.5)


def test_maps_of_half_precision_are_those_numbers() -> None:
    maps = DepthMaps(224, 16)
    half = (1 + 4 * torch.rand(224, 224)).half()  # their sum is beyond what halves hold
    made = [maps(Part(maps.collate([m]), torch.arange(1))).values for m in (half, half.float())]
    assert torch.equal(*made)


def test_depth_known_up_to_scale_gives_the_same_tokens() -> None:
    near = torch.rand(8, 12) + 1
    far = near * 7
    values = [DEPTH(Part(DEPTH.collate([x]), torch.arange(1))).values for x in (near, far)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-4)


def test_holes_are_left_out_of_the_error_and_whole_holes_do_not_exist() -> None:
    depth_map = torch.rand(8, 12) + 1
    depth_map[:4, :4] = 0.0
    depth_map[4, 4] = torch.nan
    tokens = DEPTH(Part(DEPTH.collate([depth_map]), torch.arange(1)))
    assert tokens.valid is not None
    assert tokens.valid.tolist() == [[False, True, True, True, True, True]]
    adapter = DepthAdapter(DEPTH, 8, 8)
    error = adapter.error(torch.zeros(1, 16), tokens.values[0, 4:5])
    known = tokens.values[0, 4].nan_to_num()
    assert error.item() == pytest.approx(known.abs().sum().item() / 15, rel=1e-5)
    assert adapter.embed(tokens.values[0, 4:5], torch.zeros(1, 2)).isfinite().all()


def test_a_fixed_scale_gives_the_unit_back() -> None:
    maps = DepthMaps(size=8, patch=4, scale="fixed", mean=2.0, std=0.5)
    raw = torch.rand(8, 8) + 1
    tokens = maps(Part(maps.collate([raw]), torch.arange(1)))
    torch.testing.assert_close(maps.untokenize(tokens)[0], raw)


def test_depth_maps_refuse_what_holds_nothing() -> None:
    with pytest.raises(BadSample, match="no patch of the map is known"):
        DEPTH.collate([torch.zeros(8, 12)])
    with pytest.raises(BadSample, match="infinite"):
        DEPTH.collate([torch.full((8, 12), torch.inf)])


# --- tables ---------------------------------------------------------------------------------------


def test_empty_cells_are_tokens_that_do_not_exist() -> None:
    rows = TABLE.collate([{"age": 70, "sex": "m"}, {"volume": 35, "grade": "nan"}])
    tokens = TABLE(Part(rows, torch.arange(2)))
    assert tokens.valid is not None
    assert tokens.valid.tolist() == [[True, False, False, True], [False, True, False, False]]
    assert TABLE.untokenize(tokens) == [{"age": 70.0, "sex": "m"}, {"volume": 35.0}]


def test_what_stands_in_an_empty_cells_place_changes_no_bit() -> None:
    torch.manual_seed(0)
    model = MaskedModel({"row": TABLE}, width=24, depth=1, heads=2).eval()
    batch = collate([{"id": "x", "row": {"age": 70, "sex": "m"}}], model.tokenizers)
    tokens = model.tokenize(batch)
    before = model.encode(batch).tokens
    tokens.modalities["row"].values[0, 1:3] = 1.0
    from multimask.masking import everything

    after = model.encode_visible(tokens, everything(tokens.exists)).tokens
    assert torch.equal(before, after)
    assert before.shape[1] == 2


def test_numbers_cost_squares_and_categories_their_entropy() -> None:
    adapter = TabularAdapter(TABLE, 8, 8)
    torch.nn.init.zeros_(adapter.pred.weight)
    values = torch.tensor([[1.5], [-2.0], [2.0], [1.0]])
    coords = torch.arange(4.0)[:, None]
    answers = adapter.predict(torch.randn(4, 8), coords)
    error = adapter.error(answers, values)
    expected = torch.tensor([2.25, 4.0, math.log(3), math.log(2)])
    torch.testing.assert_close(error, expected)
    assert adapter.restore(answers, values).tolist()[:2] == [[0.0], [0.0]]


def test_none_is_a_category_where_it_is_listed() -> None:
    table = Tabular({"age": (60.0, 10.0)}, {"treatment": ("none", "surgery")})
    rows = table.collate([{"age": 70, "treatment": "none"}, {"age": 70, "treatment": "n/a"}])
    tokens = table(Part(rows, torch.arange(2)))
    assert table.untokenize(tokens) == [{"age": 70.0, "treatment": "none"}, {"age": 70.0}]


def test_half_precision_confuses_no_columns() -> None:
    wide = Tabular({f"n{n}": (0.0, 1.0) for n in range(301)}, {"kind": ("a", "b")})
    adapter = TabularAdapter(wide, 8, 8)
    coords = torch.arange(302.0)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        answers = adapter.predict(torch.randn(302, 8), coords)
    number, _ = adapter.told(answers)
    assert number.tolist() == [True] * 301 + [False]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"grade": "V"}, "expected one of II, III, IV, found 'V'"),
        ({"height": 3}, "found height"),
        ({"age": "old"}, "holds numbers, found 'old'"),
        ({"age": None, "sex": " "}, "every cell of the row is empty"),
        ([1, 2], "found list"),
    ],
)
def test_tables_refuse_cells_that_cannot_be(row: Any, told: str) -> None:
    with pytest.raises(BadSample, match=told):
        TABLE.collate([row])


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="multiple of patch"):
        LabelMaps(3, size=10, patch=4)
    with pytest.raises(ValueError, match="is one of the 300 classes"):
        LabelMaps(300)
    with pytest.raises(ValueError, match="std=0"):
        Tabular({"age": (1.0, 0.0)})
    with pytest.raises(ValueError, match="each numeric or categorical"):
        Tabular({})
