"""Fine-tuning: what is trained, at which rate, on which labels, and that it learns."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from multimask import MaskedModel
from multimask.cli.measures import MEASURES, Judged, asked
from multimask.cli.study import RunFlags, Study
from multimask.datasets.table import Table
from multimask.evaluation import Embeddings
from multimask.finetuning import Classifier, Finetuning, Head, finetune, label_curve
from multimask.finetuning.curve import label_subset
from multimask.finetuning.layers import layer_factors, prepared
from multimask.finetuning.mixing import Mixing
from multimask.finetuning.objective import Classification
from multimask.modalities.image import ImagePatches
from multimask.modalities.points import PointGroups
from multimask.modalities.video import Tubelets
from multimask.modality import Mixes, collate
from multimask.nn.encoders import Encoder
from multimask.tokens import Batch, Step

QUICK = Finetuning(lr=3e-3, lr_per=None, mixup=0.0, cutmix=0.0)
PLAIN: dict[str, Any] = {"epochs": 2, "batch_size": 8, "progress": False, "device": "cpu"}


def small(seed: int = 0, **changed: Any) -> MaskedModel:
    torch.manual_seed(seed)
    arguments: dict[str, Any] = {
        "width": 24,
        "depth": 2,
        "heads": 2,
        "decoder_width": 16,
        "decoder_depth": 1,
        "decoder_heads": 2,
    }
    return MaskedModel({"photo": ImagePatches(8, 4, channels=1)}, **arguments | changed)


def pictures(count: int = 24, blank: int = 0) -> Table:
    """Noise with one brighter half: above or left. The last `blank` rows have no label."""
    numbers = torch.Generator().manual_seed(0)
    data = 0.2 * torch.rand(count, 1, 8, 8, generator=numbers)
    data[0::2, :, :4] += 0.5
    data[1::2, :, :, :4] += 0.5
    labels: list[str | None] = ["above", "left"] * (count // 2)
    labels[count - blank :] = [None] * blank
    return Table.from_arrays(photo=data, label=labels, id=[f"s{i:02d}" for i in range(count)])


def batch(count: int = 4, **labels: list[Any]) -> Batch:
    made = collate([pictures()[i] for i in range(count)], small().tokenizers)
    return Batch(made.size, made.sample_ids, made.labels | labels, made.parts)


# --- what trains, and how fast --------------------------------------------------------------------


def test_rates_fall_from_the_head_to_the_tokens() -> None:
    model = small()
    factors, encoder = layer_factors(model, 0.5), cast(Encoder, model.encoder)

    def of(module: nn.Module) -> set[float]:
        return {factors[id(p)] for p in module.parameters()}

    assert of(encoder.norm) == {1.0}
    assert of(encoder.blocks[1]) == {0.5}
    assert of(encoder.blocks[0]) == {0.25}
    assert of(model.adapters) == {0.125}
    assert factors[id(encoder.globals)] == 0.125
    assert set(layer_factors(model, 1.0).values()) == {1.0}


def test_the_optimiser_is_given_these_rates() -> None:
    found: list[set[float]] = []
    first = Finetuning(lr=1e-3, lr_per=None, mixup=0.0, cutmix=0.0, layer_decay=0.5, warmup=0.0)
    from lightning import Callback

    class Watch(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            found.append({round(g["lr"], 9) for g in trainer.optimizers[0].param_groups})

    finetune(small(), pictures(), first, callbacks=[Watch()], limit_steps=1, **PLAIN)
    assert found == [{1e-3, 5e-4, 2.5e-4, 1.25e-4}]


def test_the_model_stays_as_it_is_and_the_decoder_is_left_alone() -> None:
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tuned = finetune(model, pictures(), QUICK, **PLAIN).classifier.model
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    after = tuned.state_dict()
    unused = {k for k in after if k.startswith("decoder.") or ".pred." in k or ".decoder_" in k}
    assert unused
    for key in after:
        if key in unused:
            assert torch.equal(after[key], before[key]), key
        else:
            assert not torch.equal(after[key], before[key]), key


def test_the_mean_is_normalised_once_and_the_class_token_by_the_encoder() -> None:
    made = {
        pool: prepared(small(), batch(), None, norm=pool == "global") for pool in ("mean", "global")
    }
    assert isinstance(cast(Encoder, made["mean"].encoder).norm, nn.Identity)
    assert isinstance(cast(Encoder, made["global"].encoder).norm, nn.LayerNorm)
    assert isinstance(Head(24, 3, "mean").norm, nn.LayerNorm)
    assert isinstance(Head(24, 3, "global").norm, nn.Identity)


def test_drop_path_rises_to_the_last_block() -> None:
    blocks = cast(Any, prepared(small(depth=3), batch(), 0.2, norm=True).encoder).blocks
    assert [getattr(b.drop_path, "rate", 0.0) for b in blocks] == [0.0, 0.1, 0.2]


def test_an_encoder_without_drop_path_says_so() -> None:
    class Plain(nn.Module):
        width, depth = 24, 1

    model = small()
    model.encoder = Plain()
    with pytest.raises(ValueError, match=r"Plain takes none; say drop_path=0"):
        prepared(model, batch(), 0.1, norm=True)


# --- the loss -------------------------------------------------------------------------------------


def classification(**changed: Any) -> Classification:
    return Classification(Head(24, 2), ("above", "left"), "label", **{"smoothing": 0.0} | changed)


def test_it_begins_at_the_loss_of_a_guess() -> None:
    term = classification()(small().eval(), batch(), Step())["classes"]
    assert float(term.value()) == pytest.approx(math.log(2), abs=1e-3)
    assert float(term.count) == 4


def test_smoothing_and_shares_by_hand() -> None:
    objective = classification(smoothing=0.2)
    mixed = batch(
        2,
        label=["above", None],
        **{"label.other": ["left", None], "label.share": [0.75, None]},
    )
    # .75 and .25, each times .8, and .1 for both
    torch.testing.assert_close(objective.wanted(mixed), torch.tensor([[0.7, 0.3], [0.0, 0.0]]))
    assert float(objective.counts(small(), mixed)["classes"]) == 1


def test_a_class_that_was_not_learned_is_named() -> None:
    with pytest.raises(ValueError, match="the class 'below' of label 'label'"):
        classification().wanted(batch(1, label=["below"]))


def test_micro_batches_change_nothing() -> None:
    how = Finetuning(lr=1e-3, lr_per=None, drop_path=0.0)
    runs = [
        finetune(small(), pictures(), how, accumulate=parts, **PLAIN).fit.losses for parts in (1, 2)
    ]
    assert runs[0] == pytest.approx(runs[1], abs=1e-5)


def test_rows_without_a_label_are_left_out() -> None:
    made = finetune(small(), pictures(24, blank=8), QUICK, **PLAIN)
    assert made.fit.seen == 32  # 2 epochs of 16 rows


@pytest.mark.parametrize(
    ("labels", "said"),
    [(["a"] * 24, "holds 1 classes"), ([None] * 24, "no sample has a 'label'")],
)
def test_labels_that_teach_nothing_are_refused(labels: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        finetune(small(), pictures().with_columns(label=labels), QUICK, **PLAIN)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layer_decay": 0.0}, "layer_decay=0.0 must lie"),
        ({"smoothing": 1.0}, "smoothing=1.0 must lie"),
        ({"mixup": -1.0}, "must not be negative"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        finetune(small(), pictures(), Finetuning(**changed), **PLAIN)


# --- mixing ---------------------------------------------------------------------------------------


def mixing(mixup: float, cutmix: float, table: Table | None = None) -> Mixing:
    table = table or pictures()
    return Mixing(table, np.arange(len(table)), small().tokenizers, "label", mixup, cutmix)


def drawn(samples: Mixing, index: int, seed: int) -> dict[str, Any]:
    return samples.draw(index, Generator().manual_seed(seed))


def test_what_a_sample_is_mixed_with_is_its_own_affair() -> None:
    samples = mixing(0.8, 1.0)
    first = [drawn(samples, index, 5 + index) for index in range(4)]
    again = [drawn(samples, index, 5 + index) for index in reversed(range(4))][::-1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["photo"], other["photo"])
        assert one["label.share"] == other["label.share"]


def test_mixup_averages_with_the_share_of_the_label() -> None:
    flat = torch.arange(24.0)[:, None, None, None].expand(24, 1, 8, 8)
    table = Table.from_arrays(photo=flat, label=["above", "left"] * 12)
    for seed in range(8):
        made = drawn(mixing(1.0, 0.0, table), 0, seed)
        share, value = made["label.share"], made["photo"]
        partner = float(value[0, 0, 0]) / (1 - share)  # the first is all zeros
        assert partner == pytest.approx(round(partner), abs=1e-3)
        assert made["label.other"] == ("above", "left")[round(partner) % 2]


def test_a_pasted_box_takes_as_much_as_the_label_says() -> None:
    tokenizer = ImagePatches(8, 4, channels=1)
    black, white = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    for seed in range(20):
        made, left = tokenizer.paste(black, white, 0.5, Generator().manual_seed(seed))
        assert float(made.mean()) == pytest.approx(1 - left)
        rows, columns = (made[0].amax(axis) for axis in (1, 0))
        assert float(rows.sum() * columns.sum()) == pytest.approx(float(made.sum()))  # a box


def test_a_clip_keeps_its_seconds_and_one_box_in_all_frames() -> None:
    tokenizer = Tubelets(4, 8, 4, channels=1, mean=0.5, std=0.5)
    clips = [
        {"frames": torch.full((4, 1, 8, 8), v), "seconds": torch.arange(4.0)} for v in (0.0, 1.0)
    ]
    made, left = tokenizer.paste(clips[0], clips[1], 0.5, Generator().manual_seed(1))
    assert torch.equal(made["seconds"], clips[0]["seconds"])
    assert torch.equal(made["frames"][0], made["frames"][3])
    assert 0 < left < 1
    blend = tokenizer.blend(clips[0], clips[1], 0.25)
    assert torch.equal(blend["frames"], torch.full((4, 1, 8, 8), 0.75))


def test_clouds_are_not_mixed() -> None:
    groups = PointGroups(4, 2)
    assert not isinstance(groups, Mixes)
    cloud = torch.rand(16, 3)
    table = Table.from_arrays(cloud=cloud.expand(4, 16, 3), label=["a", "b"] * 2)
    samples = Mixing(table, np.arange(4), {"cloud": groups}, "label", 0.8, 1.0)
    made = drawn(samples, 0, 3)
    assert torch.equal(made["cloud"], cloud)
    assert "label.share" not in made


def test_pictures_of_two_sizes_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="crop or resize to one size"):
        ImagePatches(8, 4).blend(torch.rand(3, 8, 8), torch.rand(3, 8, 12), 0.5)


def test_bytes_stay_bytes_where_a_box_is_pasted() -> None:
    tokenizer = ImagePatches(8, 4, channels=1)
    one, two = (torch.full((1, 8, 8), v, dtype=torch.uint8) for v in (0, 255))
    assert tokenizer.paste(one, two, 0.5, Generator())[0].dtype == torch.uint8
    torch.testing.assert_close(tokenizer.blend(one, two, 0.25), torch.full((1, 8, 8), 0.75))


# --- modalities left out --------------------------------------------------------------------------


def two(seed: int = 0) -> MaskedModel:
    torch.manual_seed(seed)
    maps = {name: ImagePatches(8, 4, channels=1) for name in ("negative", "photo")}
    return MaskedModel(maps, width=24, depth=1, heads=2, decoder=False)


def pairs(count: int = 24) -> Table:
    """The pictures and their negatives; the first has no negative."""
    table = pictures(count)
    negatives: list[Any] = [1 - table[row]["photo"] for row in range(count)]
    negatives[0] = None
    data = torch.stack([table[row]["photo"] for row in range(count)])
    label, ids = (list(table.columns[name]) for name in ("label", "id"))
    return Table.from_arrays(
        modalities=["negative", "photo"], photo=data, negative=negatives, label=label, id=ids
    )


def test_each_sample_leaves_modalities_out_for_itself_and_never_all() -> None:
    samples = Mixing(pairs(), np.arange(24), two().tokenizers, "label", 0.0, 0.0, drop=0.5)
    drawn_rows = [drawn(samples, 1, seed) for seed in range(300)]
    there = [tuple(name for name in ("negative", "photo") if name in row) for row in drawn_rows]
    shares = {names: there.count(names) / 300 for names in set(there)}
    assert set(shares) == {("negative",), ("photo",), ("negative", "photo")}
    assert all(abs(share - 1 / 3) < 0.1 for share in shares.values())  # given that some are left
    assert all(row["label"] == "left" for row in drawn_rows)
    assert drawn(samples, 1, 7).keys() == drawn_rows[7].keys()
    assert all("photo" in drawn(samples, 0, seed) for seed in range(20))  # it has nothing else
    whole = Mixing(pairs(), np.arange(24), two().tokenizers, "label", 0.0, 0.0)
    assert {"negative", "photo"} <= set(drawn(whole, 1, 0))


def test_a_classifier_is_asked_by_some_modalities_as_if_the_rest_lacked() -> None:
    model = two()
    model.seen = (("negative", "photo"),)
    how = Finetuning(lr=3e-3, lr_per=None, mixup=0.0, cutmix=0.0, drop=0.5)
    longer: dict[str, Any] = PLAIN | {"epochs": 12}
    tuned = finetune(model, pairs(), how, **longer).classifier
    assert tuned.model.seen == (("negative",), ("negative", "photo"), ("photo",))
    alone = tuned.predict(pairs(), modalities=["photo"])
    lacking = tuned.predict(
        [{k: v for k, v in pairs()[row].items() if k != "negative"} for row in range(24)]
    )
    np.testing.assert_array_equal(alone.probabilities, lacking.probabilities)
    assert alone.correct("label").mean() > 0.8
    told = tuned.predict(pairs(), modalities=["negative"])
    assert [name for name, _ in told.skipped] == ["s00"]  # it has none
    with pytest.raises(ValueError, match="expected at least one of negative, photo, found sound"):
        tuned.predict(pairs(), modalities=["sound"])
    with pytest.raises(ValueError, match="a chance to be left out"):
        finetune(model, pairs(), Finetuning(drop=1.0), **PLAIN)


# --- the outcome ----------------------------------------------------------------------------------


def test_it_learns_and_is_read_back(tmp_path: Path) -> None:
    longer: dict[str, Any] = PLAIN | {"epochs": 12}
    made = finetune(small(), pictures(), QUICK, **longer)
    told = made.classifier.predict(pictures(), batch_size=5)
    assert told.correct("label").mean() > 0.8
    assert made.fit.loss_last < made.fit.loss_first
    made.classifier.save(tmp_path / "tuned")
    again = Classifier.load(tmp_path / "tuned")
    assert (again.classes, again.label) == (("above", "left"), "label")
    read = again.predict(pictures(), batch_size=24)
    np.testing.assert_allclose(read.probabilities, told.probabilities, atol=1e-6)


def test_experiments_can_ask_for_it() -> None:
    model, table = small(), pictures()
    flags = RunFlags(batch_size=8, finetune_epochs=1, device="cpu", evaluate=("finetune",))
    study = Study(model.tokenizers, table, table.head(16), "label")
    assert "finetune" in asked(flags, study)
    none = Embeddings((), np.zeros((0, 1), np.float32), {}, ())  # it looks at no frozen features
    right = MEASURES["finetune"].scores(Judged(model, study, flags, 0, none, none))
    assert right.shape == (16,)
    assert right.dtype == bool


def test_a_model_without_a_head_is_no_classifier(tmp_path: Path) -> None:
    small().save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"found no head.safetensors; multimask.load"):
        Classifier.load(tmp_path)


def test_the_same_seed_gives_the_same_classifier() -> None:
    runs = [finetune(small(), pictures(), Finetuning(), **PLAIN).classifier for _ in range(2)]
    states = [cast(dict[str, Tensor], each.state_dict()) for each in runs]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_shares_of_labels_hold_one_another_and_every_class() -> None:
    table = pictures(40)
    rows = np.arange(40)
    parts = [set(label_subset(table, rows, "label", s, 0).tolist()) for s in (0.01, 0.1, 0.5, 1.0)]
    assert [len(part) for part in parts] == [2, 4, 20, 40]
    for less, more in pairwise(parts):
        assert less < more
    assert {row % 2 for row in parts[0]} == {0, 1}


def test_a_curve_compares_the_same_rows() -> None:
    models = {0: (small(0), small(1))}
    once: dict[str, Any] = PLAIN | {"epochs": 1}
    curve = label_curve(
        models,
        pictures(),
        pictures(16),
        QUICK,
        shares=(0.1, 1.0),
        min_steps=4,
        **once,
    )
    assert [stage.rows for stage in curve.stages] == [2, 24]
    assert all(len(stage.pretrained[0]) == 16 for stage in curve.stages)
    assert curve.picture().shape[2] == 3
    assert str(curve).count("\n") == 2
