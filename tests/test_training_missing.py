"""Rows that lack modalities: k is settled once for all, and nothing hidden goes unscored."""

import logging
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from multimask import Count, MaskedModel, Masker, Ratio, Reconstruction, Step, Uniform
from multimask.masking.context import Context
from multimask.modalities.image import ImagePatches
from multimask.tokens import Batch, Sample, Term, slots_of
from multimask.training import fit, settled
from multimask.training.collate import Collate
from multimask.training.missing import foreseen, missing_matrix, tokens_per_row
from multimask.training.reading import Item, as_samples
from multimask.training.rows import Chosen

SIZES = {"a": 8, "b": 12, "c": 8, "d": 16}  # 4, 9, 4 and 16 tokens
SUBSETS = ["".join(names) for count in range(1, 5) for names in combinations("abcd", count)]


def model() -> MaskedModel:
    torch.manual_seed(0)
    tokenizers = {name: ImagePatches(size, 4, channels=1) for name, size in SIZES.items()}
    return MaskedModel(tokenizers, width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1)


def sample(name: str, modalities: str) -> Sample:
    parts = {each: torch.rand(1, SIZES[each], SIZES[each]) for each in modalities}
    return {"id": name, **parts}


def matrix(*present: str) -> Any:
    return np.array([[name not in names for name in "abcd"] for names in present])


SLOTS = slots_of({"a": 4, "b": 9, "c": 4, "d": 16})
CONTEXT = Context(SLOTS, complete=True)


def test_the_matrix_is_read_from_columns() -> None:
    samples = as_samples([sample("x", "ab"), sample("y", "b"), {"id": "z", "a": None, "b": ""}])
    assert missing_matrix(samples, "abc").tolist() == [
        [False, False, False],  # of c nothing is known: nobody has such a column
        [True, False, False],
        [True, True, False],
    ]
    assert tokens_per_row(matrix("abcd", "b", ""), SLOTS).tolist() == [33, 9, 0]


def test_nothing_missing_changes_nothing() -> None:
    greedy = Masker(Uniform(), Ratio(0.1))  # keeps more than max_visible_share
    assert settled(greedy, SLOTS, matrix("abcd", "abcd"), CONTEXT) is greedy
    modest = Masker(Uniform(), Ratio(0.95))
    assert settled(modest, SLOTS, matrix("abcd", "a"), CONTEXT) is modest


def test_the_shortest_row_decides() -> None:
    asked = Masker(Uniform(), Ratio(0.75))  # 8 of 33
    made = settled(asked, SLOTS, matrix("abcd", "b"), CONTEXT)
    assert made.budget == Count(6, 27)  # floor(.75 * 9)
    assert settled(asked, SLOTS, matrix("abcd", "b", "a"), CONTEXT).budget == Count(3, 30)
    assert settled(asked, SLOTS, matrix("abcd", "b"), CONTEXT, 0.5).budget == Count(4, 29)
    assert made.rule == asked.rule
    # a row without anything is skipped when read; it does not decide
    assert settled(asked, SLOTS, matrix("abcd", "b", ""), CONTEXT) == made


def test_a_budget_that_decodes_less_keeps_doing_so() -> None:
    asked = Masker(Uniform(), Count(8, 10))
    assert settled(asked, SLOTS, matrix("abcd", "a"), CONTEXT).budget == Count(3, 10)


def test_ragged_maskers_pass_through() -> None:
    ragged = Masker(Uniform(), Ratio(0.75), ragged=True)
    assert settled(ragged, SLOTS, matrix("abcd", "a"), CONTEXT) is ragged


class Pairs(Uniform):
    """Ties two tokens together."""

    def unit(self, context: Context) -> int:
        return 2


def test_tied_tokens_are_counted_in_their_units() -> None:
    slots = slots_of({"a": 4, "b": 8})
    asked, lacks = Masker(Pairs(), Ratio(0.5)), np.array([[False, False], [False, True]])
    made = settled(asked, slots, lacks, Context(slots))  # at most 3 of a's 4: one pair
    assert made.budget == Count(1, 5)
    assert made.counts(12, Context(slots)) == (2, 10)
    with pytest.raises(ValueError, match=r"some row has 4 tokens.* drop_below"):
        settled(asked, slots, lacks, Context(slots), max_visible_share=0.3)


def test_every_hidden_token_is_scored_whatever_lacks() -> None:
    made, asked = model(), Masker(Uniform(), Ratio(0.75))
    samples = [sample(names, names) for names in SUBSETS]
    chosen = Chosen(as_samples(samples), np.arange(len(samples)))
    masker = settled(asked, made.slots, chosen.missing(made.slots), foreseen(made))
    k, _ = masker.counts(33, foreseen(made))
    assert k == 3  # three of the four tokens of a row with a or c alone
    batch = Collate.of(made, masker)([Item(0, each) for each in samples])
    assert batch.masking is not None
    existing = torch.tensor([sum((SIZES[n] // 4) ** 2 for n in names) for names in SUBSETS])
    assert torch.equal(batch.masking.exists.sum(dim=1), existing)
    assert torch.equal(batch.masking.target.sum(dim=1), existing - k)
    assert torch.equal(batch.masking.visible.sum(dim=1), torch.full_like(existing, k))
    terms = Reconstruction(masker)(made, batch, Step())
    assert sum(int(term.count) for term in terms.values()) == int((existing - k).sum())


def test_counts_said_ahead_are_those_of_the_terms() -> None:
    made = model()
    samples = [sample(names, names) for names in SUBSETS]
    batch = Collate.of(made, Masker(Uniform(), Count(3, 30)))([Item(0, each) for each in samples])
    for average in ("token", "sample"):
        objective = Reconstruction(Masker(), average)
        terms, counts = objective(made, batch, Step()), objective.counts(made, batch)
        assert {n: float(t.count) for n, t in terms.items()} == {
            n: float(count) for n, count in counts.items()
        }


# --- in fit ---------------------------------------------------------------------------------------


def run(samples: list[Sample], caplog: pytest.LogCaptureFixture, **how: Any) -> tuple[Any, str]:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 4, "progress": False} | how
    with caplog.at_level(logging.WARNING, "multimask"):
        objective = how.pop("objective", None) or Reconstruction(Masker(Uniform(), Ratio(0.75)))
        settings.pop("objective", None)
        result = fit(model(), objective, samples, **settings)
    return result, caplog.text


def test_fit_says_that_fewer_stay_visible_and_why(caplog: pytest.LogCaptureFixture) -> None:
    present = [*SUBSETS, "abcd"]
    samples = [sample(f"{i}-{names}", names) for i, names in enumerate(present)]
    result, said = run(samples, caplog)
    assert (result.visible, result.decoded) == (3, 30)
    assert "3 tokens stay visible instead of 8: 2 of 16 rows have only 4 tokens" in said
    assert "first '0-a', '2-c', which lacks b, c, d" in said
    assert result.skipped == ()
    existing = [sum((SIZES[n] // 4) ** 2 for n in names) for names in present]
    assert result.effective_ratio == pytest.approx(1 - 3 * 16 / sum(existing))


def test_fit_says_nothing_when_nothing_lacks(caplog: pytest.LogCaptureFixture) -> None:
    result, said = run([sample(str(i), "abcd") for i in range(8)], caplog)
    assert (result.visible, result.decoded) == (8, 25)
    assert said == ""


def test_short_rows_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    seen: set[str] = set()

    class Seen(Reconstruction):
        def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
            seen.update(batch.sample_ids)
            return super().forward(model, batch, step)

    samples = [sample(f"{i}-{names}", names) for i, names in enumerate(["abcd", "bd", "ac"] * 4)]
    result, said = run(samples, caplog, drop_below=0.5, objective=Seen(Masker()))
    assert (result.visible, len(seen)) == (8, 8)
    assert "4 rows have less than 50% of all tokens: left out." in said
    assert "instead of" not in said
    assert not any(name.endswith("ac") for name in seen)


def test_held_out_rows_count_too(caplog: pytest.LogCaptureFixture) -> None:
    whole = [sample(str(i), "abcd") for i in range(8)]
    result, _ = run(whole, caplog, validation=[sample("short", "a")])
    assert result.visible == 3
    assert result.skipped == ()
    assert result.loss_val is not None


def test_rows_that_only_turn_out_short_are_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """Where no column tells what lacks, the reading does."""

    class Silent:
        items = tuple(sample(str(i), "abcd" if i else "a") for i in range(9))
        columns: dict[str, Any] = {}  # noqa: RUF012 - the protocol's

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, index: int) -> Sample:
            return self.items[index]

        def with_columns(self, **columns: Any) -> "Silent":
            raise NotImplementedError

    result, said = run(Silent(), caplog, epochs=3)  # type: ignore[arg-type]
    ((name, why),) = result.skipped
    assert name == "0"
    assert "4 tokens, but 8 are to stay visible" in why
    assert "one sample could not be used and left out" in said


def test_ragged_runs_keep_what_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    objective = Reconstruction(Masker(Uniform(), Ratio(0.75), ragged=True))
    samples = [sample(f"{i}", names) for i, names in enumerate(["abcd", "a"] * 4)]
    result, said = run(samples, caplog, objective=objective)
    assert result.visible == 8
    assert said == ""
    # 8 of 33 and all 4 of 4 are visible
    assert result.effective_ratio == pytest.approx(1 - (8 + 4) / (33 + 4))


def test_generators_are_the_samples_own() -> None:
    """A row keeps its masking when other rows lack something, as long as k is the same."""
    made, masker = model(), Masker(Uniform(), Count(3, 30))
    collate = Collate.of(made, masker)
    generator = Generator().manual_seed(0)
    data = {n: torch.rand(1, s, s, generator=generator) for n, s in SIZES.items()}
    whole: Sample = {"id": "x", **data}
    one = collate([Item(0, whole), Item(0, sample("y", "abcd"))]).masking
    other = collate([Item(0, sample("y", "a")), Item(0, whole)]).masking
    assert one is not None
    assert other is not None
    assert torch.equal(one.ids[0], other.ids[1])
    assert torch.equal(one.decoded_ids[0], other.decoded_ids[1])
