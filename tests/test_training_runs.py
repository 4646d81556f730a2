"""A run of fit: the arguments it takes, what it leaves behind, and what it says."""

import csv
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from multimask import Count, Masker, Reconstruction, Uniform
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder
from multimask.training import fit, hardware
from multimask.training.layers import layers
from multimask.training.profile import advice
from small_training import model, rows, trained, weights

KEEP_UP = "Data keep up; the sums take the time."


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
