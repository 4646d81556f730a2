"""Whole modalities from the others: beside controls, for every set of modalities, and warned of."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multimask import collate, fit, load
from multimask.cli import main
from multimask.cli.crossmodal import crossed
from multimask.cli.evaluate import asked_for
from multimask.cli.study import RunFlags, Study
from multimask.datasets.rows import described_cells, with_cells
from multimask.datasets.table import Table
from multimask.evaluation import (
    Embeddings,
    crossmodal_errors,
    paired_bootstrap,
    subset_scores,
)
from multimask.evaluation.crossmodal import derangement, training_means
from multimask.evaluation.subsets import of_some
from multimask.filling import UnseenModalities
from multimask.masking import Count, Dropped, Fixed, Masker, Ratio, Uniform
from multimask.methods.multimae import multimae
from multimask.methods.recipe import Recipe
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modalities.tabular import Tabular
from multimask.modality import Tokenizer
from multimask.pictures import answered_rows
from multimask.tokens import Sample
from multimask.training.missing import subsets_seen

MAPS: dict[str, Tokenizer] = {
    "inverse": ImagePatches(8, 4, channels=1),
    "picture": ImagePatches(8, 4, channels=1),
    "sign": LabelMaps(2, 8, 4),
}
SMALL: dict[str, Any] = {
    "width": 24, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1,
    "decoder_heads": 2, "normed": (),
}  # fmt: skip


def samples(count: int, seed: int = 0, permuted: bool = False) -> list[Sample]:
    """Pictures of one level each, their inverse and sign; permuted: those of another picture."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(count, generator=generator)
    others = levels[torch.randperm(count, generator=generator)] if permuted else levels
    noise = 0.05 * torch.randn(count, 1, 8, 8, generator=generator)
    pictures = (levels[:, None, None, None] + noise).clamp(0, 1)
    inverse = (1 - others[:, None, None, None] + noise.flip(3)).clamp(0, 1)
    signs = (others > 0.5).long()[:, None, None].expand(-1, 8, 8)
    return [
        {"id": f"{seed}/{n}", "picture": pictures[n], "inverse": inverse[n], "sign": signs[n],
         "label": "light" if levels[n] > 0.5 else "dark"}
        for n in range(count)
    ]  # fmt: skip


def trained(rows: list[Sample], epochs: int, masker: Masker | None = None) -> Recipe:
    torch.manual_seed(0)
    masker = masker or Masker(Uniform(), Dropped(Count(4)))
    recipe = multimae(MAPS, **SMALL, masker=masker)
    fit(recipe.model, recipe.objective, rows, epochs=epochs, batch_size=32, lr=5e-3, lr_per=None,
        pictures=False, progress=False)  # fmt: skip
    return recipe


@pytest.fixture(scope="module")
def learned() -> Recipe:
    return trained(samples(128), 20)


# --- beside controls ------------------------------------------------------------------------------


def test_a_hidden_modality_is_answered_from_the_sample_at_hand(learned: Recipe) -> None:
    """MultiMAE's behaviour: far better than means, only with the right partner."""
    found = crossmodal_errors(learned.model, samples(64, 1), samples(128))
    assert {name: made.measure for name, made in found.items()} == {
        "inverse": "squared error", "picture": "squared error", "sign": "cross-entropy",
    }  # fmt: skip
    for name, made in found.items():
        assert len(made.ids) == len(made.answered) == 64
        for control in (made.of_mean, made.shuffled):
            assert paired_bootstrap([control], [made.answered]).low > 0, name
        assert made.answered.mean() < 0.6 * made.of_mean.mean(), name


def test_nothing_is_answered_from_partners_that_do_not_belong_together() -> None:
    """The same training on permuted pairs beats no mean: what was shown above is not a leak."""
    model = trained(samples(128, permuted=True), 20).model
    found = crossmodal_errors(model, samples(64, 1, permuted=True), samples(128), ["picture"])
    made = found["picture"]
    assert made.answered.mean() > 0.9 * made.of_mean.mean()


def test_the_mean_predictor_is_the_mean_of_the_training_samples(learned: Recipe) -> None:
    train, test = samples(32), samples(16, 1)
    found = crossmodal_errors(learned.model, test, train, ["inverse", "sign"])
    tokens = [learned.model.tokenize(collate(rows, MAPS)).modalities for rows in (train, test)]
    known, asked = (part["inverse"].values.double() for part in tokens)
    wanted = (asked - known.mean(dim=0)).square().mean(dim=(1, 2))
    np.testing.assert_allclose(found["inverse"].of_mean, wanted.numpy(), rtol=1e-4)
    labels, asked = (part["sign"].values.double() for part in tokens)
    chance = labels.mean(dim=0)
    wanted = -torch.where(asked == 1, chance, 1 - chance).log().mean(dim=(1, 2))
    np.testing.assert_allclose(found["sign"].of_mean, wanted.numpy(), rtol=1e-3)
    means = training_means(learned.model, train, ["sign"], 8, 0)["sign"]
    torch.testing.assert_close(means.sum(dim=-1), torch.ones(4, 16).double())


def test_batches_and_holes_change_no_answer(learned: Recipe) -> None:
    """Samples that lack the target or have nothing else are left out, others are as before."""
    train, test = samples(32), samples(12, 1)
    whole = crossmodal_errors(learned.model, test, train, ["picture"])["picture"]
    del test[3]["picture"]
    for name in ("inverse", "sign"):
        del test[5][name]
    holes = crossmodal_errors(learned.model, test, train, ["picture"], batch_size=4)["picture"]
    kept = [place for place in range(12) if place not in (3, 5)]
    assert holes.ids == tuple(whole.ids[place] for place in kept)
    np.testing.assert_allclose(holes.answered, whole.answered[kept], rtol=1e-4)
    np.testing.assert_allclose(holes.of_mean, whole.of_mean[kept], rtol=1e-6)


@pytest.mark.parametrize("drawable", [True, False])
def test_a_picture_is_named_where_one_was_drawn(
    drawable: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table.from_arrays(
        modalities=["picture", "inverse"],
        picture=torch.rand(6, 1, 8, 8),
        inverse=torch.rand(6, 1, 8, 8),
        age=[50.0 + n for n in range(6)],
    )
    maps = {name: MAPS[name] for name in ("picture", "inverse")}
    if not drawable:
        table = with_cells(table, "notes", ["age"])
        maps["notes"] = Tabular(*described_cells(table, "notes"))
    multimae(maps, **SMALL).model.save(tmp_path / "model")
    found = crossed(RunFlags(out=tmp_path, method="multimae"), Study(maps, table, table, None))
    assert set(found) == set(maps)
    told = capsys.readouterr().out
    assert "over 6 test items" in told
    assert ("crossmodal.png" in told) == (tmp_path / "crossmodal.png").exists() == drawable


def test_nobody_is_paired_with_himself() -> None:
    for size in (2, 3, 17):
        pairs = derangement(collate(samples(size), MAPS), seed=0)
        assert sorted(pairs.tolist()) == list(range(size))
        assert not (pairs == torch.arange(size)).any()


def test_what_cannot_be_compared_is_said(learned: Recipe) -> None:
    with pytest.raises(ValueError, match="must be some of"):
        crossmodal_errors(learned.model, samples(4), samples(4), ["sound"])
    alone = [{"id": s["id"], "sign": s["sign"]} for s in samples(4)]
    with pytest.raises(ValueError, match="no two samples of a batch"):
        crossmodal_errors(learned.model, alone, samples(4), ["sign"])


# --- what was seen in training --------------------------------------------------------------------


def test_a_model_remembers_what_it_read_and_warns_of_what_it_never_did(tmp_path: Path) -> None:
    """Four of twelve tokens fit into one modality, nine into no two of them."""
    rows = samples(32)
    some = trained(rows, 1).model
    assert ("picture",) in some.seen  # pyright: ignore[reportOperatorIssue]
    all_of = trained(rows, 1, Masker(Uniform(), Ratio(0.25))).model
    assert all_of.seen == (("inverse", "picture", "sign"),)
    all_of.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.seen == all_of.seen
    batch = collate(rows[:4], MAPS)
    with pytest.warns(UnseenModalities, match="picture: in training the encoder never read"):
        again.encode(batch, modalities=["picture"])
    with pytest.warns(UnseenModalities, match="inverse \\+ sign"):
        again.reconstruct(batch, targets=["picture"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.encode(batch)
        some.encode(batch, modalities=["picture"])
        multimae(MAPS, **SMALL).model.encode(batch, modalities=["picture"])  # nobody noted


def test_rows_that_lack_modalities_count_as_seen() -> None:
    model = multimae(MAPS, **SMALL).model
    from multimask.training.missing import foreseen

    missing = np.array([[False, False, False], [True, False, True], [True, True, True]])
    masker = Masker(Uniform(), Fixed({"inverse": 1, "picture": 1, "sign": 1}))
    seen = subsets_seen(masker, missing, foreseen(model))
    assert seen == (("inverse", "picture", "sign"), ("picture",))


# --- every set of modalities ----------------------------------------------------------------------


def arrays(count: int, seed: int) -> dict[str, Any]:
    rows = samples(count, seed)
    made = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in MAPS}
    texts = {"label": [row["label"] for row in rows], "id": [row["id"] for row in rows]}
    return made | {name: np.array(entries) for name, entries in texts.items()}


def test_every_set_of_modalities_is_scored_by_rows_that_have_it(learned: Recipe) -> None:
    train, test = (Table.from_arrays(modalities=list(MAPS), **arrays(60, seed)) for seed in (0, 1))
    signs: list[Any] = list(test.columns["sign"])
    signs[0] = None
    test = test.with_columns(sign=signs)
    found = {score.names: score for score in subset_scores(learned.model, train, test, "label")}
    assert len(found) == 7
    assert len(found["picture",].items) == 60
    assert len(found["picture", "sign"].items) == 59
    whole = found["inverse", "picture", "sign"]
    assert whole.probe is not None
    assert whole.carried is not None
    assert np.array_equal(whole.probe, whole.carried)  # the same probe
    assert whole.probe.mean() > 0.9
    for score in found.values():
        assert score.mixed is not None
        assert len(score.mixed) == len(score.items)
    with pytest.raises(ValueError, match="no column 'kind'"):
        subset_scores(learned.model, train, test, "kind")


def test_a_set_named_twice_is_one() -> None:
    model = multimae(MAPS, **SMALL).model
    found = asked_for(("sign+picture", "sign", "picture+sign"), list(MAPS), model)
    assert found == [("sign",), ("picture", "sign")]


def test_tables_without_a_column_of_a_modality_are_scored_by_the_others() -> None:
    from multimask.datasets.table import Table

    columns = [arrays(24, seed) for seed in (0, 1)]
    for made in columns:
        del made["sign"]
    train, test = (Table.from_arrays(modalities=["inverse", "picture"], **c) for c in columns)
    torch.manual_seed(0)
    model = multimae(MAPS, **SMALL).model
    (score,) = subset_scores(model, train, test, "label", [["inverse", "picture"]])
    assert score.probe is not None
    assert score.mixed is not None
    assert score.carried is None


def test_the_probe_of_any_learns_from_each_row_once_by_what_it_has() -> None:
    def made(ids: list[str], value: float) -> Embeddings:
        features = np.full((len(ids), 2), value, np.float32)
        return Embeddings(tuple(ids), features, {"label": np.array(ids)}, ())

    ids = [str(n) for n in range(90)]
    sets = {("a",): made(ids, 1), ("b",): made(ids[30:], 2), ("a", "b"): made(ids[30:], 3)}
    learned = of_some({names: (some, some) for names, some in sets.items()}, seed=0)
    assert list(learned.ids) == list(learned.labels["label"]) == ids
    assert set(learned.features[:30, 0]) == {1.0}
    counts = np.bincount(learned.features[30:, 0].astype(int))
    assert (counts[1:] > 8).all()


def test_evaluate_prints_a_table_and_leaves_it_as_files(
    learned: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "maps.npz", **arrays(80, 0))
    learned.model.save(tmp_path / "model")
    trained(samples(32), 1, Masker(Uniform(), Ratio(0.25))).model.save(tmp_path / "whole")
    words = ["evaluate", "--data", str(tmp_path / "maps.npz"), "--out", str(tmp_path / "run")]
    assert main([*words, "--model", str(tmp_path / "whole"), "--beside",
                 str(tmp_path / "model")]) == 0  # fmt: skip
    told = capsys.readouterr().out
    assert "inverse+picture+sign " in told
    assert "picture* " in told
    assert "* warning" in told
    assert "more by" in told
    written = json.loads((tmp_path / "run/subsets.json").read_text())
    assert len(written["subsets"]) == 7
    assert set(written["lost"]) == {"probe", "knn", "carried", "mixed"}
    low, high = written["lost"]["mixed"]["model"]["less_interval"]
    assert low <= written["lost"]["mixed"]["model"]["less_by"] <= high
    assert "model: the probe of any loses less than that of all by" in told
    assert (tmp_path / "run/subsets.csv").read_text().startswith("subset,test_rows")
    assert (tmp_path / "run/subsets.png").is_file()
    assert main([*words, "--model", str(tmp_path / "model"), "--subsets", "picture+sound"]) == 2
    assert "'sound' is no column" in capsys.readouterr().err


def test_runs_of_several_seeds_are_paired_seed_by_seed(
    learned: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "maps.npz", **arrays(80, 0))
    other = trained(samples(32), 1, Masker(Uniform(), Ratio(0.25))).model
    for run, first, second in (("a", learned.model, other), ("b", other, learned.model)):
        first.save(tmp_path / run / "model")
        second.save(tmp_path / run / "seed-10" / "model")
    words = ["evaluate", "--data", str(tmp_path / "maps.npz"), "--out", str(tmp_path / "run")]
    runs = [str(tmp_path / run) for run in "ab"]
    assert main([*words, "--model", runs[0], "--beside", runs[1]]) == 0
    lost = json.loads((tmp_path / "run/subsets.json").read_text())["lost"]["probe"]
    assert lost["model"]["lost_seeds"] == lost[runs[1]]["lost_seeds"][::-1]
    assert lost["model"]["lost"] == pytest.approx(np.mean(lost["model"]["lost_seeds"]))
    assert lost["model"]["lost_seeds"][0] != lost["model"]["lost_seeds"][1]
    assert lost[runs[1]]["more_by"] == pytest.approx(0)  # the same two models in another order
    assert "by seed" in capsys.readouterr().out
    assert main([*words, "--model", runs[0], "--beside", "random weights"]) == 2
    assert "write ./random weights" in capsys.readouterr().err
    one = str(tmp_path / "b" / "model")
    assert main([*words, "--model", runs[0], "--beside", one]) == 2
    assert "expected as many seeds as the model's run has, 2; found 1" in capsys.readouterr().err


def test_fine_tuned_models_are_asked_by_every_set(
    learned: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "maps.npz", **arrays(80, 0))
    learned.model.save(tmp_path / "model")
    data = ["--data", str(tmp_path / "maps.npz")]
    words = [*data, "--model", str(tmp_path / "model"), "--lr", "1e-3", "--mixup", "0",
             "--cutmix", "0", "--epochs", "2", "--batch-size", "16"]  # fmt: skip
    for name, drop in (("whole", "0"), ("some", "0.5")):
        out = ["--out", str(tmp_path / name), "--drop", drop, "--no-control"]
        assert main(["finetune", *words, *out]) == 0
    tuned = [str(tmp_path / name / "model") for name in ("some", "whole")]
    judged = ["evaluate", *data, "--out", str(tmp_path / "run"), "--model"]
    assert main([*judged, tuned[0], "--beside", tuned[1]]) == 0
    assert "fine-tuned loses when modalities drop: model" in capsys.readouterr().out
    written = json.loads((tmp_path / "run/subsets.json").read_text())
    assert {"tuned model", f"tuned {tuned[1]}"} <= set(written["subsets"][0])
    assert "tuned random weights" not in written["subsets"][0]
    assert set(written["lost"]["tuned"]) == {"model", tuned[1]}
    assert (tmp_path / "run/subsets.png").is_file()
    assert main([*judged, str(tmp_path / "model")]) == 0  # without a head nothing of it is said
    assert "fine-tuned" not in capsys.readouterr().out


def test_rows_with_nothing_beside_the_target_are_not_drawn() -> None:
    torch.manual_seed(0)
    model = multimae(MAPS, **SMALL).model
    whole, other = samples(2)
    alone: Sample = {"id": other["id"], "picture": other["picture"]}
    batch = collate([whole, alone], MAPS)
    one = answered_rows(model, collate([whole], MAPS), ["picture"])
    drawn = answered_rows(model, batch, ["picture"])
    assert one is not None
    assert drawn is not None
    assert drawn.shape == one.shape
    assert answered_rows(model, collate([alone], MAPS), ["picture"]) is None
