"""A run may be killed at any moment; what follows is what would have followed, to the bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Generator, Tensor, nn

from multimask import Count, MaskedModel, Masker, Objective, Reconstruction, Uniform
from multimask.modalities.image import ImagePatches
from multimask.nn.encoders import Encoder
from multimask.nn.teacher import Teacher
from multimask.tokens import Batch, Sample, Step, Term
from multimask.training import Checkpoints, TrainingError, fit
from multimask.training.checkpoints import KeepCheckpoints
from multimask.training.termination import EXIT

SIZES = {"a": 8, "b": 12}


def model(drop_path: float = 0.3) -> MaskedModel:
    """With drop path: device-side randomness has to come back, too."""
    torch.manual_seed(0)
    tokenizers = {name: ImagePatches(size, 4, channels=1) for name, size in SIZES.items()}
    encoder = Encoder(16, depth=2, heads=2, drop_path=drop_path)
    return MaskedModel(tokenizers, encoder, decoder_width=16, decoder_depth=1)


class WithTeacher(Reconstruction):
    """Reconstruction, and closeness to an EMA teacher through a head of its own."""

    def __init__(self, model: MaskedModel, knows: bool = False) -> None:
        super().__init__(Masker(Uniform(), Count(3, 10)))
        torch.manual_seed(1)
        self.teacher, self.head = Teacher(model, decay=0.9), nn.Linear(16, 16)
        self.head.to(next(model.parameters()))
        self.knows = knows

    def counts(self, model: MaskedModel, batch: Batch) -> dict[str, Tensor]:
        if not self.knows:
            return {}
        return {**super().counts(model, batch), "teacher": torch.tensor(float(batch.size))}

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        with torch.no_grad():
            wanted = self.teacher(batch).mean()
        error = (self.head(model.encode(batch).mean()) - wanted).square().sum()
        count = torch.tensor(float(batch.size))
        return {**super().forward(model, batch, step), "teacher": Term(error, count)}

    def after_step(self, model: MaskedModel) -> None:
        self.teacher.follow(model)


def rows() -> list[Sample]:
    generator = Generator().manual_seed(0)
    made: list[Sample] = []
    for index in range(27):
        parts = {n: torch.rand(1, s, s, generator=generator) for n, s in SIZES.items()}
        made.append({"id": str(index), **parts})
    made[3] = {"id": "3"}  # has nothing: skipped
    return made


def run(
    out: Path, made: MaskedModel | None = None, knows: bool = False, **how: Any
) -> tuple[Tensor, Any]:
    """4 epochs of 5 steps: all weights, the objective's too, and the result."""
    made = made or model()
    objective: Objective = WithTeacher(made, knows)
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 4, "accumulate": 2, "lr": 0.05}
    settings |= {"validation": 0.2, "pictures": False, "progress": False, "out": out} | how
    result = fit(made, objective, rows(), **settings)
    modules = (made, objective)
    return torch.cat([p.detach().flatten() for m in modules for p in m.parameters()]), result


def same(result: Any, other: Any) -> None:
    assert result.losses == other.losses
    assert (result.skipped, result.seen, result.steps) == (other.skipped, other.seen, other.steps)
    assert result.effective_ratio == other.effective_ratio
    for ours, theirs in zip(result.epochs, other.epochs, strict=True):
        timeless = [{k: v for k, v in r.items() if "second" not in k} for r in (ours, theirs)]
        assert timeless[0] == timeless[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Any]:
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop", [1, 5, 7, 14, 20])
def test_a_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, uninterrupted: tuple[Tensor, Any], stop: int
) -> None:
    """Stopped within an epoch (1, 7, 14), at its end (5) and when all is done (20)."""
    whole, expected = uninterrupted
    run(tmp_path / "cut", limit_steps=stop)
    resumed, result = run(tmp_path / "cut", resume=tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert torch.equal(whole, resumed)
    same(result, expected)


def test_it_may_be_stopped_twice_and_read_otherwise(
    tmp_path: Path, uninterrupted: tuple[Tensor, Any]
) -> None:
    whole, expected = uninterrupted
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    run(tmp_path / "cut", limit_steps=7)
    run(tmp_path / "cut", limit_steps=13, resume=last, workers=2)
    resumed, result = run(tmp_path / "cut", resume=last)
    assert torch.equal(whole, resumed)
    same(result, expected)
    assert (tmp_path / "cut" / "log" / "metrics.csv").exists()
    assert (tmp_path / "cut" / "log" / "resumed-2" / "metrics.csv").exists()


def test_a_checkpoint_within_an_epoch_is_exact(
    tmp_path: Path, uninterrupted: tuple[Tensor, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written every four steps, the run killed steps later."""
    whole, expected = uninterrupted
    written: list[int] = []

    class Kill(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == 14:
                raise RuntimeError("killed")

    save = KeepCheckpoints.save

    def noted(self: KeepCheckpoints, trainer: L.Trainer) -> None:
        written.append(trainer.global_step)
        save(self, trainer)

    monkeypatch.setattr(KeepCheckpoints, "save", noted)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "cut", callbacks=[Kill()], checkpoints=Checkpoints(steps=4))
    assert written == [4, 5, 8, 10, 12]
    resumed, result = run(tmp_path / "cut", resume=tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert torch.equal(whole, resumed)
    same(result, expected)


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    run(tmp_path, limit_steps=3)
    files = {file.name for file in (tmp_path / "checkpoints").iterdir()}
    assert files == {"last.ckpt"}  # nothing half-written stays
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"seed": 1}, "written with seed=0, this run has seed=1"),
        ({"batch_size": 2}, "written with batch_size=4, this run has batch_size=2"),
        ({"validation": 0.4}, "written with rows=22, this run has rows=16"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    run(tmp_path, limit_steps=2)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, resume=tmp_path / "checkpoints" / "last.ckpt", **how)


def test_other_samples_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, limit_steps=2)
    others = [{**row, "id": f"other-{row['id']}"} for row in rows()]
    monkeypatch.setattr(f"{__name__}.rows", lambda: others)
    with pytest.raises(ValueError, match="written on 22 other samples"):
        run(tmp_path, resume=tmp_path / "checkpoints" / "last.ckpt")


def test_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, limit_steps=2)
    last = tmp_path / "checkpoints" / "last.ckpt"
    torch.manual_seed(0)
    other = MaskedModel(model().tokenizers, Encoder(16, 1, 2), decoder_width=16, decoder_depth=1)
    with pytest.raises(ValueError, match=r"resume: weights .* have shape .* build the same model"):
        run(tmp_path, other, resume=last)
    for damage in (last.read_bytes()[:1000], b"", b"noise"):
        last.write_bytes(damage)
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            run(tmp_path, resume=last)


def test_a_bad_share_is_remembered(tmp_path: Path) -> None:
    run(tmp_path, limit_steps=12)
    with pytest.raises(TrainingError, match=r"max_bad=1%"):
        run(tmp_path, resume=tmp_path / "checkpoints" / "last.ckpt", max_bad=0.01)


def test_the_latest_and_the_best_stay(tmp_path: Path) -> None:
    _, result = run(tmp_path, checkpoints=Checkpoints(steps=3, keep=2, best=True))
    names = {file.name for file in (tmp_path / "checkpoints").iterdir()}
    assert names == {"last.ckpt", "best.ckpt", "step-00000018.ckpt", "step-00000020.ckpt"}
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    held = [record["loss_val"] for record in result.epochs]
    assert best["global_step"] == 5 * (1 + held.index(min(held)))
    for minutes, steps, keep in ((0.0, 1, 0), (1.0, 0, 0), (1.0, 1, -1)):
        with pytest.raises(ValueError, match="Checkpoints: minutes"):
            Checkpoints(minutes, steps, keep)


def test_a_run_asked_to_end_saves_first(tmp_path: Path, uninterrupted: tuple[Tensor, Any]) -> None:
    class Ask(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == 7:
                signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, callbacks=[Ask()])
    assert ended.value.code == EXIT == 143
    assert signal.getsignal(signal.SIGTERM) is before
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 8
    whole, expected = uninterrupted
    resumed, result = run(tmp_path, resume=last)
    assert torch.equal(whole, resumed)
    same(result, expected)


KILLED = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from multimask.training import Checkpoints
from test_training_resume import run
torch.set_num_threads(1)
out = Path(sys.argv[2])
last = out / "checkpoints" / "last.ckpt"
how = dict(epochs=40, workers=2, checkpoints=Checkpoints(steps=3))
weights, result = run(out, resume=last if last.exists() else None, **how)
torch.save((weights, result.losses, result.seen, result.skipped), out / "end.pt")
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """SIGKILL to the whole process group, two workers reading, checkpoints every three steps."""
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(Path(__file__).parent)]
    start = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    took, moments = time.monotonic() - start, random.Random(0)
    out, kills = tmp_path / "cut", 0
    while kills < 10:
        child = subprocess.Popen(
            [*command, str(out)], start_new_session=True, stderr=subprocess.DEVNULL
        )
        last = out / "checkpoints" / "last.ckpt"
        seen = last.stat().st_mtime_ns if last.exists() else None
        while child.poll() is None:  # so that every try gets on: a new checkpoint, then a moment
            time.sleep(0.01)
            if last.exists() and last.stat().st_mtime_ns != seen:
                break
        time.sleep(moments.uniform(0, took / 60))
        assert child.poll() is None, "over before ten kills; train longer"
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    ends = [torch.load(folder / "end.pt") for folder in (tmp_path / "whole", out)]
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]
