"""Evaluation: what it measures does not depend on batches, order or luck."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch

from multimask.cli.measures import incomparable, labelled
from multimask.cli.study import Study
from multimask.datasets.table import Table
from multimask.evaluation import (
    Embeddings,
    embed,
    few_shot,
    knn,
    linear_probe,
    paired_bootstrap,
    raw_means,
    raw_values,
    reconstruction_error,
    shows_learning,
    svm,
)
from multimask.evaluation.labels import check_rows
from multimask.masking import Masker, Ratio
from multimask.modalities.image import ImagePatches
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.tokens import BadSample, Part, Sample, Step, Tokens

PATCHES = ImagePatches(16, 4, channels=2)


def build(target: Target = Target(), names: Sequence[str] = ("day", "night")) -> MaskedModel:  # noqa: B008
    torch.manual_seed(0)
    return MaskedModel(
        dict.fromkeys(names, PATCHES),
        target=target,
        width=24,
        depth=2,
        heads=2,
        decoder_width=16,
        decoder_heads=2,
    )


def pictures(count: int, seed: int = 0) -> list[Sample]:
    """Every third lacks `night`, some of the rest lack `day`; two native sizes."""
    generator, samples = torch.Generator().manual_seed(seed), []
    for index in range(count):
        side = 16 if index % 4 else 24
        sample: Sample = {"id": f"s{index}", "kind": index % 2}
        if index % 5:
            sample["day"] = torch.rand(2, side, side, generator=generator)
        if index % 3 or not index % 5:
            sample["night"] = torch.rand(2, side, side, generator=generator)
        samples.append(sample)
    return samples


def clusters(per_class: int, seed: int = 0, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around three corners of a cube."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(["ant", "bee", "cow"], per_class)
    noise = generator.normal(scale=spread, size=(3 * per_class, 3))
    return (np.repeat(np.eye(3), per_class, axis=0) + noise).astype(np.float32), labels


# --- embed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_row_does_not_depend_on_the_batch_it_was_in(batch_size: int) -> None:
    model, samples = build(), pictures(13)
    whole = embed(model, samples, batch_size=64)
    parts = embed(model, samples, batch_size=batch_size)
    assert parts.ids == whole.ids == tuple(f"s{index}" for index in range(13))
    np.testing.assert_allclose(parts.features, whole.features, rtol=0, atol=1e-6)


def test_workers_change_nothing() -> None:
    model, samples = build(), pictures(7)
    alone, with_workers = (embed(model, samples, batch_size=2, workers=w) for w in (0, 2))
    assert with_workers.ids == alone.ids
    assert np.array_equal(with_workers.features, alone.features)


def test_rows_follow_the_order_of_the_samples() -> None:
    model, samples = build(), pictures(9)
    forth = embed(model, samples, batch_size=4)
    back = embed(model, samples[::-1], batch_size=4)
    assert back.ids == forth.ids[::-1]
    np.testing.assert_allclose(back.features, forth.features[::-1], rtol=0, atol=1e-6)
    assert back.labels["kind"].tolist() == forth.labels["kind"].tolist()[::-1]


def test_embedding_from_one_modality_is_embedding_samples_that_lack_the_other() -> None:
    model, samples = build(), pictures(8)
    chosen = embed(model, samples, modalities=["day"])
    lacking = [{k: v for k, v in s.items() if k != "night"} for s in samples if "day" in s]
    assert chosen.ids == tuple(sample["id"] for sample in lacking)
    assert [name for name, _ in chosen.skipped] == ["s0", "s5"]  # they have nothing but `night`
    np.testing.assert_allclose(chosen.features, embed(model, lacking).features, atol=1e-6)
    assert set(chosen.labels) == {"kind"}
    with pytest.raises(ValueError, match=r"\['dusk'\] must be some of \['day', 'night'\]"):
        embed(model, samples, modalities=["dusk"])


def test_the_model_is_left_as_it_was() -> None:
    model = build().train()
    embed(model, pictures(3))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_global_pooling_takes_the_global_token() -> None:
    model, samples = build(), pictures(4)[1:2]
    features = embed(model, samples, pool="global").features
    assert not np.allclose(features, embed(model, samples).features)


class Broken:
    """A table of five of which some cannot be used, each in another way."""

    def __init__(self, whole: Sequence[int]) -> None:
        self.whole = set(whole)
        self.columns = {"id": ["a", "b", "c", "d", "e"]}

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        name = self.columns["id"][index]
        picture = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(index))
        if index not in self.whole:
            if index == 0:
                raise FileNotFoundError("a.png: no such file")
            if index == 1:
                raise BadSample("b.png: cut short")
            picture = picture.log() / 0 if index == 2 else picture[:1]
        return {"id": name, "day": picture}

    def with_columns(self, **columns: Sequence[Any]) -> "Broken":
        raise NotImplementedError


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_bad_samples_are_left_out_and_told(batch_size: int) -> None:
    model = build()
    found = embed(model, Broken(whole=[4]), batch_size=batch_size)
    assert found.ids == ("e",)
    assert sorted(name for name, _ in found.skipped) == ["a", "b", "c", "d"]
    reasons = dict(found.skipped)
    assert reasons["a"] == "a.png: no such file"
    assert reasons["b"] == "b.png: cut short"
    assert "512 pixels are NaN" in reasons["c"]
    assert "(1, 16, 16)" in reasons["d"]
    undisturbed = embed(model, Broken(whole=range(5))).features[4:]
    np.testing.assert_allclose(found.features, undisturbed, atol=1e-6)


def test_nothing_but_bad_samples_is_an_error() -> None:
    samples = [{"id": "x", "day": torch.full((2, 16, 16), torch.nan)}]
    with pytest.raises(ValueError, match=r"none of 1 samples could be read; the first: x: .*NaN"):
        embed(build(), samples)


def test_a_sample_that_only_the_tokenizer_refuses_is_left_out() -> None:
    @dataclass(frozen=True)
    class Picky(ImagePatches):
        def __call__(self, part: Part) -> Any:
            if (part.data > 2).any():
                raise BadSample("Picky: too bright")
            return super().__call__(part)

    model = MaskedModel({"day": Picky(16, 4)}, width=24, depth=1, heads=2, decoder=False)
    samples = [{"id": str(i), "day": torch.full((3, 16, 16), float(i))} for i in range(5)]
    found = embed(model, samples)
    assert found.ids == ("0", "1", "2")
    assert found.skipped == (("3", "Picky: too bright"), ("4", "Picky: too bright"))


def test_labels_become_arrays() -> None:
    extra = [
        {"age": 1.5, "name": "x", "seen": torch.tensor(3), "map": torch.zeros(2, 2)},
        {"age": None, "name": "y", "seen": np.int64(4)},
    ]
    samples = [s | more for s, more in zip(pictures(2), extra, strict=True)]
    labels = embed(build(), samples).labels
    assert set(labels) == {"age", "kind", "name", "seen"}  # a map is no single value
    assert labels["age"].tolist() == [1.5, None]
    assert labels["name"].tolist() == ["x", "y"]
    assert labels["seen"].dtype.kind == labels["kind"].dtype.kind == "i"


# --- nearest neighbours ---------------------------------------------------------------------------


def test_the_vote_is_weighted_by_similarity() -> None:
    angles = torch.tensor([0.1, 1.0, 1.1])
    train = torch.stack((angles.cos(), angles.sin()), dim=1).numpy() * 5  # length says nothing
    labels, query = np.array(["near", "far", "far"]), np.array([[1.0, 0.0]], dtype=np.float32)
    assert knn(train, labels, query, k=3).predictions.tolist() == ["near"]
    assert knn(train, labels, query, k=3, temperature=10.0).predictions.tolist() == ["far"]
    assert knn(train, labels, query, k=50).accuracy is None


def test_neighbours_are_scikit_learns() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train, labels = clusters(30, spread=0.6)
    test, truth = clusters(20, seed=1, spread=0.6)
    weights: Any = lambda distances: np.exp((1 - distances) / 0.07)  # noqa: E731
    theirs = KNeighborsClassifier(10, metric="cosine", weights=weights)
    voted = knn(train, labels, test, truth, k=10)
    assert voted.predictions.tolist() == theirs.fit(train, labels).predict(test).tolist()
    assert voted.accuracy == (voted.predictions == truth).mean()


def test_chunks_of_test_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, labels), (test, _) = clusters(20), clusters(20, seed=1, spread=0.8)
    whole = knn(train, labels, test).predictions
    monkeypatch.setattr("multimask.evaluation.neighbours.CHUNK", 7)
    assert np.array_equal(knn(train, labels, test).predictions, whole)


# --- linear classifiers ---------------------------------------------------------------------------

linear = pytest.mark.parametrize("classify", [linear_probe, svm])


@linear
def test_what_is_separable_is_separated(classify: Callable[..., Any]) -> None:
    (train, labels), (test, truth) = clusters(20, spread=0.1), clusters(10, seed=1, spread=0.1)
    fitted = classify(train, labels, test, truth)
    assert fitted.accuracy == 1
    assert fitted.correct.all()
    assert fitted.strength == min(s for s, a in fitted.validation.items() if a == 1)


@linear
def test_the_scale_of_a_feature_changes_nothing(classify: Callable[..., Any]) -> None:
    (train, labels), (test, truth) = clusters(20), clusters(10, seed=1)
    scale, shift = np.array([1000, 1, 0.01]), np.array([5, -3, 0.2])
    plain = classify(train, labels, test, truth)
    scaled = classify(train * scale + shift, labels, test * scale + shift, truth)
    assert scaled.predictions.tolist() == plain.predictions.tolist()
    assert scaled.validation == plain.validation


@linear
def test_test_rows_choose_nothing(classify: Callable[..., Any]) -> None:
    (train, labels), (test, truth) = clusters(20, spread=0.8), clusters(10, seed=1, spread=0.8)
    one = classify(train, labels, test, truth)
    other = classify(train, labels, test, np.roll(truth, 7))
    assert one.strength == other.strength
    assert one.predictions.tolist() == other.predictions.tolist()
    assert one.accuracy != other.accuracy


def test_what_cannot_be_fitted_says_why() -> None:
    (train, labels), (test, truth) = clusters(5), clusters(2, seed=1)
    probe = linear_probe
    new = truth.copy()
    new[0] = "dog"
    with pytest.raises(ValueError, match=r"test rows hold dog, of which there is no training row"):
        probe(train, labels, test, new)
    with pytest.raises(ValueError, match=r"all training rows are of class ant"):
        probe(train[:5], labels[:5], test[:2], truth[:2])
    rare = np.where(np.arange(15) == 0, "emu", labels)
    with pytest.raises(ValueError, match=r"class emu has a single training row"):
        probe(train, rare, test, truth)
    assert probe(train, rare, test, truth, grid=(1.0,)).validation == {}


def test_rows_without_a_use_are_counted() -> None:
    features, labels = clusters(5)
    with pytest.raises(ValueError, match=r"probe: 15 rows of features came with 6 labels"):
        check_rows("probe", features, labels[:6])
    with pytest.raises(ValueError, match=r"probe: 2 rows have no label"):
        check_rows("probe", features, np.array([None, np.nan, *labels[2:]], dtype=object))
    features[3] = np.nan
    with pytest.raises(ValueError, match=r"probe: 1 rows of features hold NaN"):
        check_rows("probe", features, labels)


def test_few_shots_of_separable_classes_are_enough() -> None:
    features, labels = clusters(30, spread=0.05)
    sure = few_shot(features, labels, ways=3, shots=5, trials=4)
    assert (sure.mean, sure.std, len(sure.accuracies)) == (1.0, 0.0, 4)
    features, labels = clusters(60, spread=0.7)
    one = few_shot(features, labels, ways=2, shots=5)
    assert one == few_shot(features, labels, ways=2, shots=5)
    assert one != few_shot(features, labels, ways=2, shots=5, seed=1)
    assert 0.5 < one.mean < 1
    assert one.std > 0


def test_too_few_rows_for_few_shots_is_said() -> None:
    features, labels = clusters(20)
    with pytest.raises(ValueError, match=r"3 classes of at least 30 rows .* only 0 of 3"):
        few_shot(features, labels, ways=3, shots=10)


# --- comparisons ----------------------------------------------------------------------------------


def test_the_interval_of_a_sure_difference_has_no_width() -> None:
    right, wrong = np.ones(50, dtype=bool), np.zeros(50, dtype=bool)
    interval = paired_bootstrap([right, right], [wrong, wrong])
    assert (interval.mean, interval.low, interval.high) == (1.0, 1.0, 1.0)
    same = paired_bootstrap([right], [right])
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_the_interval_is_that_of_the_paired_differences() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(size=400)  # what an item costs either model
    a, b = hard + 0.1 + generator.normal(scale=0.1, size=400), hard
    interval = paired_bootstrap([a], [b])
    error = (a - b).std() / 20
    assert interval.mean == pytest.approx((a - b).mean())
    assert interval.low == pytest.approx(interval.mean - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(interval.mean + 1.96 * error, abs=0.1 * error)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator, held = np.random.default_rng(0), 0
    for trial in range(300):
        a, b = (generator.random((2, 120)) < share for share in (0.7, 0.6))
        interval = paired_bootstrap(list(a), list(b), resamples=500, seed=trial)
        held += interval.low <= 0.1 <= interval.high
    assert 0.91 < held / 300 < 0.98


def test_learning_is_shown_by_every_seed_or_not_at_all() -> None:
    good, poor = np.arange(300) < 240, np.arange(300) < 150
    shown = shows_learning([good, good, good], [poor, poor, poor])
    assert shown.learned
    assert shown.worst == pytest.approx(0.3)
    assert "learning is shown: 0.800 (random 0.500)" in str(shown)
    assert "on 300 test items" in str(shown)
    one_fails = shows_learning([good, good, poor], [poor, poor, good])
    assert one_fails.interval.low > 0
    assert not one_fails.learned
    assert "NOT shown" in str(one_fails)
    by_luck = shows_learning([good[:6]], [np.array([False, *good[1:6]])])
    assert by_luck.worst > 0
    assert not by_luck.learned


def test_seeds_that_saw_other_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"2 seeds with \[4, 5\] items"):
        paired_bootstrap([np.ones(4), np.ones(5)], [np.ones(4), np.ones(5)])
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(2, 4\) \(seeds, items\)"):
        paired_bootstrap([np.ones(4)], [np.ones(4), np.ones(4)])


# --- raw values -----------------------------------------------------------------------------------


def test_raw_means_are_the_means_of_the_channels() -> None:
    bright = torch.stack((torch.full((16, 16), 0.5), torch.full((16, 16), 1.0)))
    samples = [{"day": bright}, {"night": bright}]
    features = raw_means(samples, {"day": PATCHES, "night": PATCHES}).features
    # standardised: (x - .5) / .5; a last column says whether the modality is there
    np.testing.assert_allclose(features, [[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("most", "width"), [(512, 512), (511, 32), (32, 32), (31, 2 * 15 - 6), (1, 2)]
)
def test_raw_values_are_averaged_down_to_a_size(most: int, width: int) -> None:
    samples = [{"day": torch.rand(2, 16, 16)} for _ in range(3)]
    features = raw_values(samples, {"day": PATCHES}, most=most).features
    assert features.shape == (3, width + 1)
    assert np.isfinite(features).all()


@dataclass(frozen=True)
class Pebbles:
    """A set: rows of (place, weight), each a token of two equal weights."""

    token_dim, coord_dim, num_tokens, channels = 2, 1, 3, 1

    def __call__(self, part: Part) -> Tokens:
        return Tokens(part.data[..., 1:].expand(-1, -1, 2), part.data[..., :1], part.rows)


def test_places_of_a_set_are_raw_values_too() -> None:
    samples = [{"day": torch.tensor([[5.0, 1.0], [6.0, 1.0], [10.0, 4.0]])}]
    assert raw_means(samples, {"day": Pebbles()}).features.tolist() == [[2, 7, 1]]
    features = raw_values(samples, {"day": Pebbles()}, most=6).features
    assert features.tolist() == [[1, 5, 1, 6, 4, 10, 1]]


def test_a_set_that_raw_values_win_is_seen() -> None:
    def stripes(count: int, seed: int, trivial: bool) -> tuple[list[Sample], np.ndarray]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 2, (count,), generator=generator)
        pattern = torch.tensor([0.0, 1.0]).repeat(8)
        samples = []
        for label in labels.tolist():
            lines = pattern if torch.rand(1, generator=generator) < 0.5 else 1 - pattern
            picture = lines.expand(2, 16, 16) if label else lines[:, None].expand(2, 16, 16)
            samples.append({"day": picture * 0.5 + 0.1 * label * trivial})
        return samples, labels.numpy()

    for trivial, means, values in ((True, 1.0, 1.0), (False, 0.7, 0.9)):
        (train, labels), (test, truth) = stripes(80, 0, trivial), stripes(80, 1, trivial)
        for raw, limit in ((raw_means, means), (raw_values, values)):
            features = [raw(part, {"day": PATCHES}).features for part in (train, test)]
            accuracy = linear_probe(features[0], labels, features[1], truth).accuracy
            assert accuracy == 1 if trivial else accuracy < limit


def test_raw_values_of_mixed_sizes_are_refused() -> None:
    samples = [{"day": torch.rand(2, 24, 24)}]
    with pytest.raises(ValueError, match=r"'day': a sample has 36 tokens, the tokenizer states 16"):
        raw_values(samples, {"day": PATCHES})


# --- reconstruction error -------------------------------------------------------------------------

MASKER = Masker(budget=Ratio(0.5))


def same_size(count: int, seed: int = 0) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    return [{"id": str(i), "day": torch.rand(2, 16, 16, generator=generator)} for i in range(count)]


def silent(model: MaskedModel) -> MaskedModel:
    """Answers 0 whatever it is asked."""
    for adapter in model.adapters.values():
        torch.nn.init.zeros_(cast(Any, adapter).pred.weight)
    return model


def test_the_error_is_that_of_hidden_pixels_in_their_own_scale() -> None:
    samples = same_size(5)
    found = reconstruction_error(silent(build(names=["day"])), samples, MASKER, train=samples)
    generators = Step(0).generators([s["id"] for s in samples], "masking")
    squares, from_mean, mean = [], [], torch.stack([s["day"] for s in samples]).mean(dim=0)
    for sample, generator in zip(samples, generators, strict=True):
        for slot in torch.rand(16, generator=generator).argsort()[8:].tolist():
            row, column = 4 * (slot // 4), 4 * (slot % 4)
            window = (slice(None), slice(row, row + 4), slice(column, column + 4))
            squares.append((sample["day"][window] - 0.5).square())  # 0 is the value 0.5
            from_mean.append((sample["day"][window] - mean[window]).square())
    error = found.modalities["day"]
    assert (error.scale, error.tokens) == ("raw values", 40)
    assert error.error == pytest.approx(torch.stack(squares).mean().item(), rel=1e-5)
    assert error.of_mean == pytest.approx(torch.stack(from_mean).mean().item(), rel=1e-5)
    assert error.ratio == pytest.approx(error.error / cast(float, error.of_mean))


def test_normalised_targets_are_reported_as_such() -> None:
    model = silent(build(Target("patch"), names=["day"]))
    samples = same_size(3)
    error = reconstruction_error(model, samples, MASKER, train=samples[:1]).modalities["day"]
    assert error.scale == "normalised targets"
    assert error.error == pytest.approx(31 / 32, rel=1e-4)  # (m - 1) / m for m numbers a token
    alone = reconstruction_error(model, samples[:1], MASKER, train=samples[:1]).modalities["day"]
    assert alone.of_mean == pytest.approx(0, abs=1e-10)  # the mean of one sample is that sample


def test_batches_and_missing_modalities_change_no_error() -> None:
    model, samples = build(), same_size(6)
    for index, sample in enumerate(samples):
        sample["night"] = torch.rand(2, 16, 16)
        if index % 3 == 0:
            del sample["day" if index else "night"]
    masker = Masker(budget=Ratio(0.75))
    one, six = (reconstruction_error(model, samples, masker, batch_size=b) for b in (1, 6))
    for name in ("day", "night"):
        assert one.modalities[name].tokens == six.modalities[name].tokens
        assert one.modalities[name].error == pytest.approx(six.modalities[name].error, rel=1e-6)
        assert one.modalities[name].of_mean is None
    other = reconstruction_error(model, samples, masker, seed=1)
    assert other.modalities["day"].error != one.modalities["day"].error


def test_bad_samples_are_told_by_the_error_as_well() -> None:
    samples = [*same_size(3), {"id": "bad", "day": torch.full((2, 16, 16), torch.inf)}]
    found = reconstruction_error(build(names=["day"]), samples, MASKER)
    assert [name for name, _ in found.skipped] == ["bad"]
    with pytest.raises(ValueError, match=r"no hidden token was scored; the first skipped: bad"):
        reconstruction_error(build(names=["day"]), samples[3:], MASKER)


# --- labels of an experiment ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "why"),
    [
        (["a", "a", "b", "b"], ["b", None, "a"], None),
        (["a", "a", "b", "b"], ["a", "c"], "the training rows lack c"),
        (["a", "a", None, ""], ["a", "a"], "all training rows are of class a"),
        (["a", "a", "b", "b"], ["b", "b"], "all test rows are of class b"),
        (["a", "a", "b"], ["b", "a"], "a single training row is of class b"),
        ([1.0, 2.0], [float("nan"), None], "no test row has a label"),
    ],
)
def test_labels_that_no_probe_can_use_are_told_before_training(
    train: list[Any], test: list[Any], why: str | None
) -> None:
    told = incomparable(train, test)
    assert told is None if why is None else why in str(told)


def test_rows_without_a_label_are_left_out_of_probes() -> None:
    features = np.arange(8, dtype=np.float32).reshape(4, 2)
    labels = np.array(["x", None, "", "y"], object)
    made = Embeddings(tuple("abcd"), features, {"kind": labels}, ())
    table = Table.from_arrays(day=np.zeros((1, 2), np.float32), id=["a"])
    rows, classes = labelled(made, Study({}, table, table, "kind"))
    np.testing.assert_array_equal(rows, features[[0, 3]])
    assert classes.tolist() == ["x", "y"]
