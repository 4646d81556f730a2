"""fit: what it learns does not depend on how the work is cut up."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from multimask import Count, MaskedModel, Masker, Objective, Reconstruction, Uniform, collate
from multimask.masking.context import Context
from multimask.nn.adapters import LinearAdapter, Target
from multimask.nn.teacher import Teacher
from multimask.tokens import Batch, Step, Term
from multimask.training import TrainingError, hardware
from multimask.training.optimiser import Schedule
from small_training import MASKER, model, rows, trained, weights

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
