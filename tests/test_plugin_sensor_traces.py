"""A kind that somebody else wrote in one short file, used like the built-in ones."""

import sys
from pathlib import Path

import torch

from multimask.checkpoints import load
from multimask.masking import Masker, Ratio, Tied
from multimask.methods.mae import mae
from multimask.modality import collate
from multimask.testing import check_modality
from multimask.tokens import Part, Step

sys.path.insert(0, str(Path(__file__).parent))  # as if it were installed

from plugin_sensor_traces import SensorTraces

TRACES = SensorTraces(sensors=3, steps=32, window=4)


def traces(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    phase = torch.rand(count, 3, 1, generator=generator) * 6
    return torch.sin(torch.arange(32) * 0.4 + phase)


def test_it_is_short() -> None:
    lines = (Path(__file__).parent / "plugin_sensor_traces.py").read_text().splitlines()
    assert len(lines) < 60


def test_tokens_are_windows_and_come_back() -> None:
    data = traces(2)
    tokens = TRACES(Part(data, torch.arange(2)))
    assert torch.equal(tokens.values[1, 8 + 2], data[1, 1, 8:12])
    assert tokens.coords[0, 10].tolist() == [1.0, 1.0]
    assert torch.equal(TRACES.untokenize(tokens), data)
    shown = torch.arange(24) % 2 == 0
    assert TRACES.picture(tokens, shown).shape == (24, 32, 3)


def test_it_keeps_the_contract() -> None:
    check_modality(TRACES, list(traces(3)))


def test_it_trains_hides_sensors_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = mae(
        {"imu": TRACES}, width=32, depth=1, heads=2, decoder_width=32, decoder_depth=1,
        decoder_heads=2, normalise=False,
    )  # fmt: skip
    samples = [{"id": str(row), "imu": trace} for row, trace in enumerate(traces(8))]
    batch = collate(samples, recipe.model.tokenizers)
    optimizer = torch.optim.AdamW(recipe.model.parameters(), lr=3e-3)
    losses = []
    for index in range(40):
        loss = recipe.objective(recipe.model, batch, Step(0, 0, index))["imu"].value()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    whole_sensors = recipe.model.reconstruct(batch, Masker(Tied((1,)), Ratio(0.5)))
    hidden = whole_sensors.target["imu"].view(8, 3, 8)
    assert (hidden == hidden[..., :1]).all()
    recipe.model.save(tmp_path / "model")
    again = load(tmp_path / "model", classes={"SensorTraces": SensorTraces})
    recipe.model.eval()
    torch.testing.assert_close(again.encode(batch).mean(), recipe.model.encode(batch).mean())
