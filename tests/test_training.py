"""fit: what it learns does not depend on how the work is cut up, and what goes wrong is said."""

import csv
import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Generator, Tensor, nn

from multimask import (
    BadSample,
    Count,
    MaskedModel,
    Masker,
    Objective,
    Reconstruction,
    Uniform,
    collate,
)
from multimask.masking.context import Context
from multimask.modalities.image import ImagePatches
from multimask.nn.adapters import LinearAdapter, Target
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder
from multimask.nn.teacher import Teacher
from multimask.tokens import Batch, Sample, Step, Term
from multimask.training import TrainingError, fit, hardware
from multimask.training.layers import layers
from multimask.training.optimiser import Schedule, adamw, warmup_steps
from multimask.training.profile import advice

SIZES = {"a": 8, "b": 12}  # 4 and 9 tokens
MASKER = Masker(Uniform(), Count(3, 10))
KEEP_UP = "Data keep up; the sums take the time."


def model(drop_path: float = 0.0, names: str = "ab") -> MaskedModel:
    torch.manual_seed(0)
    tokenizers = {name: ImagePatches(SIZES[name], 4, channels=1) for name in names}
    encoder = Encoder(16, depth=2, heads=2, drop_path=drop_path)
    return MaskedModel(tokenizers, encoder, decoder_width=16, decoder_depth=1)


def sample(index: int, names: str = "ab") -> Sample:
    generator = Generator().manual_seed(index)
    parts = {n: torch.rand(1, SIZES[n], SIZES[n], generator=generator) for n in names}
    return {"id": f"s{index}", "label": "xy"[index % 2], **parts}


def rows(count: int = 24, holes: bool = False) -> list[Sample]:
    present = ("ab", "a", "b") if holes else ("ab",)
    return [sample(index, present[index % len(present)]) for index in range(count)]


def trained(samples: Any = None, objective: Objective | None = None, **how: Any) -> Any:
    """A small run: the model and what fit says about it."""
    made = how.pop("model", None) or model()
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "progress": False, "lr": 0.02} | how
    objective = objective or Reconstruction(MASKER)
    return made, fit(made, objective, samples or rows(), **settings)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# --- what is learned ------------------------------------------------------------------------------


def test_the_loss_falls_and_is_recorded() -> None:
    made, result = trained(epochs=12, lr=0.1, validation=0.25)
    assert result.loss_last < 0.6 * result.loss_first
    assert result.loss_val is not None
    assert result.steps == len(result.losses) == 12 * 2  # 18 rows are left to train on
    assert [record["epoch"] for record in result.epochs] == list(range(12))
    last = result.epochs[-1]
    assert last["loss"] == pytest.approx(last["loss/a"] + last["loss/b"])
    assert last["step"] == 24
    assert (result.visible, result.decoded) == (3, 10)
    assert result.effective_ratio == pytest.approx(10 / 13)
    assert result.samples_per_second > 0
    assert result.peak_memory > 10
    assert not made.training


def test_a_run_is_a_function_of_its_seed() -> None:
    first, _ = trained(model=model(drop_path=0.3), validation=0.25)
    torch.manual_seed(123)
    torch.rand(5)
    again, _ = trained(model=model(drop_path=0.3))
    second, _ = trained(model=model(drop_path=0.3), validation=0.25)
    other, _ = trained(model=model(drop_path=0.3), validation=0.25, seed=1)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))
    assert not torch.equal(weights(first), weights(again))


def test_it_equals_a_loop_written_by_hand() -> None:
    samples = rows(8)
    made, result = trained(samples, epochs=3, lr=0.01, lr_per=None, warmup=1)
    plain, objective = model(), Reconstruction(MASKER)
    matrices = [p for p in plain.parameters() if p.ndim > 1]
    vectors = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    schedule, losses = Schedule(0.01, total=3, warmup=1), []
    for epoch in range(3):
        order = torch.randperm(8, generator=Step(0, epoch).generators([""], "order")[0])
        for group in optimizer.param_groups:
            group["lr"] = schedule(epoch)
        batch = collate([samples[index] for index in order.tolist()], plain.tokenizers)
        terms = objective(plain.train(), batch, Step(0, epoch, epoch))
        loss = terms["a"].value() + terms["b"].value()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert result.losses == pytest.approx(losses, rel=1e-6)
    torch.testing.assert_close(weights(made), weights(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("average", ["token", "sample"])
@pytest.mark.parametrize("holes", [False, True])
def test_micro_batches_add_up_to_the_batch(average: Any, holes: bool) -> None:
    masker = Masker(Uniform(), Count(2, 11))

    def run(accumulate: int) -> tuple[Tensor, Any]:
        objective = Reconstruction(masker, average)
        # double: Adam makes a step of every gradient, also of one that is nothing but rounding
        samples, made = rows(24, holes), model().double()
        trained(samples, objective, model=made, accumulate=accumulate, clip=0.5)
        return weights(made), trained(samples, objective, accumulate=accumulate)[1]

    whole, one = run(1)
    for accumulate in (2, 4, 8):
        cut, many = run(accumulate)
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-6)
        assert many.losses == pytest.approx(one.losses, rel=1e-5)
        assert many.loss_last == pytest.approx(one.loss_last, rel=1e-5)


class Looks(Uniform):
    needs_content = True

    def __call__(self, exists: Tensor, generators: list[Generator], context: Context) -> Tensor:
        assert context.tokens is not None
        return super().__call__(exists, generators, context)


def test_counts_that_nobody_knows_ahead_are_averaged() -> None:
    """With fixed counts and nothing missing that is the same number."""
    objective = Reconstruction(Masker(Looks(), Count(1, 3)))
    first, second = (model(names="a").double() for _ in range(2))
    trained(rows(), objective, model=first)
    trained(rows(), objective, model=second, accumulate=4)
    torch.testing.assert_close(weights(first), weights(second), rtol=0, atol=1e-6)


def test_counts_that_are_wrong_are_found() -> None:
    class Wrong(Reconstruction):
        def counts(self, model: MaskedModel, batch: Batch) -> dict[str, Tensor]:
            return {name: count + 1 for name, count in super().counts(model, batch).items()}

    with pytest.raises(TrainingError, match=r"Wrong: counts\(\) and forward\(\) disagree about a"):
        trained(objective=Wrong(MASKER), accumulate=2)


def test_bf16_follows_fp32() -> None:
    if not hardware.has_bf16(torch.device("cpu")):
        pytest.skip("this processor has no bf16.")
    _, plain = trained(epochs=3)
    _, mixed = trained(epochs=3, precision="bf16", accumulate=2)
    assert mixed.losses == pytest.approx(plain.losses, rel=0.05)
    assert mixed.losses != plain.losses


def test_targets_and_counts_are_exact_under_autocast() -> None:
    """Patches that hardly vary would lose their shape in half precision, counts their digits."""
    made, flat = model(names="b"), torch.rand(300, 1, 12, 12) * 0.01 + 0.7
    batch = collate([{"id": i, "b": picture} for i, picture in enumerate(flat)], made.tokenizers)
    adapter = made.adapters["b"]
    assert isinstance(adapter, LinearAdapter)
    adapter.target = Target("patch")
    nn.init.zeros_(adapter.pred.weight)  # answers zero: the error is that of the targets alone
    objective = Reconstruction(Masker(Uniform(), Count(2, 7)))
    exact = objective(made, batch, Step())["b"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective(made, batch, Step())["b"]
    assert mixed.total.dtype == torch.float32
    assert float(mixed.count) == float(exact.count) == 2100
    assert mixed.total.item() == pytest.approx(exact.total.item(), rel=1e-4)


# --- objectives -----------------------------------------------------------------------------------


class Distilled(Objective):
    """Follows an EMA teacher's mean, through a head of its own."""

    def __init__(self, model: MaskedModel, poison_at: int = -1) -> None:
        super().__init__()
        self.masker, self.poison_at = MASKER, poison_at
        self.teacher = Teacher(model, decay=0.5)
        self.head = nn.Linear(16, 16)
        self.steps: list[Step] = []
        self.drawn: list[float] = []

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        if self.training:
            self.steps.append(step)
            self.drawn.append(torch.rand(()).item())
        tokens = model.tokenize(batch)
        masking = self.masking(model, tokens, batch, step)
        seen = model.encode_visible(tokens, masking).mean()
        with torch.no_grad():
            wanted = self.teacher(batch).mean()
        error = (self.head(seen) - wanted).square().sum()
        if step.index == self.poison_at:
            error = error * torch.inf
        return {"distance": Term(error, torch.tensor(float(batch.size)))}

    def after_step(self, model: MaskedModel) -> None:
        self.teacher.follow(model)


def test_heads_train_and_teachers_follow() -> None:
    made = model()
    objective = Distilled(made)
    head, teacher = weights(objective.head), weights(objective.teacher.copy)
    trained(objective=objective, model=made)
    assert not torch.equal(weights(objective.head), head)
    assert not torch.equal(weights(objective.teacher.copy), teacher)
    assert not any(p.requires_grad for p in objective.teacher.parameters())
    # 0.5 old + 0.5 new: after the last step the teacher lies between
    gap = (weights(objective.teacher.copy) - weights(made)).norm()
    assert 0 < gap < (teacher - weights(made)).norm()


def test_the_objective_is_told_where_the_run_is() -> None:
    made = model()
    objective = Distilled(made)
    trained(objective=objective, model=made, seed=7)
    assert objective.steps == [Step(7, index // 3, index) for index in range(6)]
    assert len(set(objective.drawn)) == 6  # every step draws anew
    other = model()
    again = Distilled(other)
    trained(objective=again, model=other, seed=7)
    assert again.drawn == objective.drawn


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    made = model()
    with pytest.raises(TrainingError, match=r"loss of step 4 is not finite: distance=inf\."):
        trained(objective=Distilled(made, poison_at=4), model=made, out=tmp_path)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3  # the last whole epoch; nothing poisoned was saved


# --- optimiser and schedule -----------------------------------------------------------------------


def test_the_rate_rises_and_falls_per_step() -> None:
    rate = Schedule(peak=2.0, total=20, warmup=4, floor=0.5)
    assert [rate(step) for step in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rate(12) == pytest.approx(1.25)
    assert rate(20) == pytest.approx(0.5)
    assert rate(30) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="warmup=30"):
        warmup_steps(30, 20)
    with pytest.raises(ValueError, match=r"warmup=-0\.1"):
        warmup_steps(-0.1, 20)


def test_the_rate_is_scaled_by_the_batch() -> None:
    seen: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    trained(callbacks=[Watch()], lr=0.32, lr_per=256, warmup=2, accumulate=2)
    assert seen[:2] == pytest.approx([0.005, 0.01])
    seen.clear()
    _, result = trained(callbacks=[Watch()], lr=0.01, lr_per=None, warmup=0)
    assert seen[0] == pytest.approx(0.01)
    assert result.epochs[-1]["lr"] == pytest.approx(seen[-1])


def test_weight_decay_leaves_vectors_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    optimizer = adamw([module, module[0], frozen], 0.1, (0.9, 0.95), 0.05)
    decayed, plain = optimizer.param_groups
    assert (len(decayed["params"]), decayed["weight_decay"]) == (1, 0.05)
    assert (len(plain["params"]), plain["weight_decay"]) == (3, 0.0)


def test_clipping_counts_all_micro_batches_together() -> None:
    norms: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
        ) -> None:
            grads = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            norms.append(torch.stack(grads).norm().item())

    trained(callbacks=[Watch()], clip=0.1, accumulate=2)
    assert max(norms) <= 0.1 + 1e-5
    assert min(norms) > 0.05


# --- held-out rows --------------------------------------------------------------------------------


def test_held_out_rows_are_masked_alike_every_time() -> None:
    _, first = trained(validation=rows(6), lr=1e-9)
    values = [record["loss_val"] for record in first.epochs]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    _, second = trained(validation=rows(6), lr=1e-9, batch_size=4)
    assert second.loss_val == pytest.approx(values[1], rel=1e-5)  # nor does the batch matter


def test_a_share_is_held_out_and_never_trained_on() -> None:
    class Seen(Reconstruction):
        def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
            (inside if self.training else outside).update(batch.sample_ids)
            return super().forward(model, batch, step)

    inside: set[str] = set()
    outside: set[str] = set()
    trained(objective=Seen(MASKER), validation=1 / 3)
    assert (len(inside), len(outside)) == (16, 8)
    assert not inside & outside
    with pytest.raises(ValueError, match=r"validation=0\.001 of 24 samples is 0"):
        trained(validation=0.001)


def test_neighbours_are_asked_after_every_epoch() -> None:
    def told_apart(index: int) -> Sample:
        plain = sample(index)
        return {**plain, "b": plain["b"] * 0.1 + (0.8 if plain["label"] == "x" else 0.0)}

    samples = [told_apart(index) for index in range(24)]
    _, result = trained(samples, online_knn="label")
    assert [record["knn"] for record in result.epochs] == [1.0, 1.0]
    _, result = trained(samples, online_knn="label", validation=0.25)
    assert result.epochs[-1]["knn"] == 1.0
    with pytest.raises(ValueError, match="online_knn='colour', but the samples have no such label"):
        trained(samples, online_knn="colour")


# --- bad samples ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damaged:
    """Rows of which some cannot be read; with `whole_batches` all of the first eight drawn."""

    bad: frozenset[int]
    size: int = 24

    def __len__(self) -> int:
        return self.size

    @property
    def columns(self) -> dict[str, Sequence[Any]]:
        return {"id": [f"s{index}" for index in range(self.size)]}

    def with_columns(self, **columns: Sequence[Any]) -> "Damaged":
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise BadSample(f"s{index}: noise, not a picture.")
        return sample(index)


def test_bad_samples_are_skipped_counted_and_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, result = trained(Damaged(frozenset({3, 5})), out=tmp_path, epochs=3)
    assert sorted(result.skipped) == [(f"s{i}", f"s{i}: noise, not a picture.") for i in (3, 5)]
    assert result.seen == 72
    assert "2 samples could not be used" in caplog.text
    with (tmp_path / "log" / "skipped.csv").open() as file:
        listed = list(csv.reader(file))
    assert listed[0] == ["id", "reason"]
    assert sorted(listed[1:]) == sorted(map(list, result.skipped))


def test_too_many_bad_samples_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"max_bad=20% .* the first is 's\d+': s\d+: noise"):
        trained(Damaged(frozenset(range(12))), out=tmp_path)
    assert (tmp_path / "log" / "skipped.csv").exists()
    early: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            early.append(trainer.global_step)

    with pytest.raises(TrainingError, match=r"of 56 samples"):
        trained(Damaged(frozenset(range(500)), 1000), callbacks=[Watch()])
    assert early[-1] == 6  # long before the epoch's end


@pytest.mark.parametrize("accumulate", [1, 2, 8])
def test_a_batch_of_which_nothing_can_be_read_is_survived(accumulate: int) -> None:
    samples = Damaged(frozenset(range(12)), 16)
    made, result = trained(samples, max_bad=1.0, epochs=4, batch_size=2 * accumulate, seed=1)
    assert torch.isfinite(weights(made)).all()
    assert len(result.skipped) == 12
    if accumulate == 1:
        assert any(loss != loss for loss in result.losses)
    assert torch.isfinite(torch.tensor([record["loss"] for record in result.epochs])).all()


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"batch_size": 25}, r"24 samples do not fill one batch of batch_size=25"),
        ({"batch_size": 6, "accumulate": 4}, r"batch_size=6 .* accumulate=4"),
        ({"epochs": 0}, r"epochs=0"),
        ({"lr": 0.0}, r"lr=0\.0 must be positive"),
        ({"max_bad": 1.5}, r"max_bad=1\.5"),
        ({"precision": "fp16", "device": "cpu"}, r"precision='fp16' needs a CUDA device"),
        ({"precision": "tf32", "device": "cpu"}, r"precision='tf32' needs a CUDA device"),
        ({"device": "toaster"}, r"device='toaster'"),
        ({"resume": "nowhere.ckpt"}, r"nowhere\.ckpt: expected a checkpoint, found no file"),
    ],
)
def test_arguments_that_cannot_be_are_told(how: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        trained(**how)


def test_emulated_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: {"avx2", "avx512f"})
    with pytest.raises(ValueError, match=r"precision='bf16' on this cpu is emulated"):
        trained(precision="bf16", device="cpu")


# --- around it ------------------------------------------------------------------------------------


def test_what_a_run_leaves_behind(tmp_path: Path) -> None:
    trained(rows(24, holes=True), out=tmp_path, validation=0.25)
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    copies = {f"pictures/epoch-{number:04d}.png" for number in range(3)}
    assert found == copies | {
        "checkpoints/last.ckpt",
        "curves.png",
        "log/metrics.csv",
        "reconstructions.png",
    }
    with (tmp_path / "log" / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert [float(row["loss_step"]) > 0 for row in logged if row["loss_step"]] == [True] * 4
    assert len([row for row in logged if row["loss_val"]]) == 2


def test_callbacks_and_their_metrics_work_as_ever(tmp_path: Path) -> None:
    stop = EarlyStopping("loss_val", patience=0, mode="max")  # at the first that falls
    best = ModelCheckpoint(tmp_path, monitor="loss_val", save_top_k=1)
    _, result = trained(callbacks=[stop, best], validation=0.25, epochs=9, lr=0.1, pictures=False)
    assert len(result.epochs) == 2
    assert "epoch=0" in best.best_model_path or "epoch=1" in best.best_model_path
    assert best.best_model_score is not None
    assert float(best.best_model_score) == pytest.approx(
        min(record["loss_val"] for record in result.epochs)
    )


def test_generators_and_the_masker_are_left_as_they_were() -> None:
    objective = Reconstruction(Masker(Uniform(), Count(6)))
    asked = objective.masker
    torch.manual_seed(5)
    before = torch.get_rng_state()
    made = model()
    torch.set_rng_state(before)
    fit(made, objective, rows(24, holes=True), epochs=1, batch_size=8, progress=False)
    assert torch.equal(before, torch.get_rng_state())
    assert objective.masker is asked


@pytest.fixture
def interrupts() -> Iterator[Any]:
    """The usual handler of interrupts: shells start what runs in the background without."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, found)


def test_an_interrupt_is_an_interrupt(interrupts: Any) -> None:
    class Press(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(callbacks=[Press()], epochs=50)
    assert signal.getsignal(signal.SIGINT) is interrupts


def test_nothing_is_said_but_a_line_an_epoch(capfd: pytest.CaptureFixture[str]) -> None:
    trained(progress=True, validation=0.25)
    said, complained = capfd.readouterr()
    lines = said.strip().splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all(word in lines[-1] for word in ("loss ", "val ", "samples/s", "left"))
    assert complained == ""


def test_compiled_parts_are_plain_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = model(), []
    monkeypatch.setattr(nn.Module, "compile", lambda module: seen.append(type(module).__name__))
    trained(model=made, compile=True, epochs=1)
    assert seen == ["Encoder", "JointDecoder"]
    assert made.encoder._compiled_call_impl is None


def test_recomputed_layers_give_the_same_weights() -> None:
    kept, _ = trained(model=model(drop_path=0.3))
    again, _ = trained(model=model(drop_path=0.3), recompute=True)
    torch.testing.assert_close(weights(again), weights(kept), rtol=0, atol=1e-6)
    assert not any("forward" in vars(module) for module in again.modules())


def test_layers_are_called_as_a_whole() -> None:
    made = model()
    assert isinstance(made.encoder, Encoder)
    assert isinstance(made.decoder, JointDecoder)
    assert layers([made]) == [*made.encoder.blocks, *made.decoder.blocks]
    assert layers([None, nn.Linear(2, 2)]) == []


def test_a_profile_says_where_steps_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(epochs=6, profile=True, out=tmp_path, pictures=False)
    told = capsys.readouterr().out
    assert "where a step goes, mean of 9" in told  # 18 less the first of each epoch, less three
    record = json.loads((tmp_path / "profile.json").read_text())
    assert record["steps"] == 9
    assert record["host_seconds"] > record["device_seconds"] >= 0
    assert record["advice"] in told


def test_advice_follows_the_largest_waste() -> None:
    assert "more workers" in advice(0.4, 0.0, "cuda")
    assert "larger batch" in advice(0.0, 0.1, "cuda")
    assert advice(0.0, 0.1, "cpu") == advice(0.0, 0.9, "cuda") == KEEP_UP
