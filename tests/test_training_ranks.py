"""Several ranks give what one gives, whether they keep all weights or share them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from multimask import MaskedModel, Reconstruction, load
from multimask.modalities.image import ImagePatches
from multimask.training import fit

# --- runs under torchrun --------------------------------------------------------------------------

SCRIPT = """
import json, os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_training_resume import model, rows, run
import test_training_resume
torch.set_num_threads(1)
out, how = Path(sys.argv[2]), json.loads(sys.argv[3])
if how.pop("alternate", False):  # with two samples a step each rank has one modality
    halves = [{k: v for k, v in row.items() if k in ("id", "ab"[i % 2])}
              for i, row in enumerate(rows()) if i != 3]
    order = torch.randperm(len(halves), generator=torch.Generator().manual_seed(0)).tolist()
    test_training_resume.rows = lambda: [halves[i] for i in order]
made = model(drop_path=0.0)
made = made.double() if how.pop("double", True) else made
weights, result = run(out, made, **how)
if os.environ.get("RANK", "0") == "0":
    made.save(out / "model")
    held = [r["loss_val"] for r in result.epochs if "loss_val" in r]
    torch.save((weights, result.losses, held, result.steps), out / "end.pt")
"""


def trained(out: Path, ranks: int, **how: Any) -> tuple[Any, ...]:
    """Weights, losses, held-out losses and steps of a run on so many ranks."""
    out.mkdir(exist_ok=True)
    script = out / "script.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    arguments = [str(script), str(Path(__file__).parent), str(out), json.dumps(how)]
    command = [sys.executable, *(torchrun if ranks > 1 else []), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out / "end.pt")


def same(ours: tuple[Any, ...], theirs: tuple[Any, ...], close: float = 1e-6) -> None:
    assert ours[3] == theirs[3]
    assert ours[1] == pytest.approx(theirs[1], rel=1e-5)
    assert ours[2] == pytest.approx(theirs[2], rel=1e-5)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=close)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_equal_one(tmp_path: Path, accumulate: int) -> None:
    """Twenty steps. Counts differ between ranks, and one rank gets the sample that cannot be read
    (accumulate=2: alone in its micro-batch). With accumulate=1 no count is known ahead."""
    how = {"accumulate": accumulate, "knows": accumulate > 1}
    one, two = (trained(tmp_path / str(ranks), ranks, **how) for ranks in (1, 2))
    assert one[3] == 20
    same(two, one)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ranks_may_hold_different_modalities(tmp_path: Path) -> None:
    """Two samples a step of one modality each: on two ranks mostly different ones, then no adapter
    of a rank's model sees a token of the other kind. Equal to one rank, and to accumulation."""
    how = {"alternate": True, "batch_size": 2, "epochs": 2, "validation": 0.25, "knows": True}
    one = trained(tmp_path / "one", 1, accumulate=1, **how)
    assert one[3] >= 18
    same(trained(tmp_path / "two", 2, accumulate=1, **how), one)
    same(trained(tmp_path / "cut", 1, accumulate=2, **how), one)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sharded_layers_equal_whole_ones(tmp_path: Path) -> None:
    """FSDP against DDP: also with clipping, an EMA teacher, pictures, kNN and validation; the
    checkpoint holds whole weights, and the run goes on from it as if never stopped."""
    how = {"epochs": 2, "clip": 0.05, "pictures": True, "double": False, "accumulate": 2}
    how |= {"knows": True}
    ddp = trained(tmp_path / "ddp", 2, strategy="ddp", **how)
    fsdp = trained(tmp_path / "fsdp", 2, strategy="fsdp", **how)
    same(fsdp, ddp, close=1e-5)
    assert (tmp_path / "fsdp" / "reconstructions.png").exists()
    folder = tmp_path / "cut"
    trained(folder, 2, strategy="fsdp", limit_steps=7, **how)
    last = folder / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    model = load(tmp_path / "fsdp" / "model")
    whole = {f"model.{name}": p.shape for name, p in model.state_dict().items()}
    assert {n: p.shape for n, p in saved["state_dict"].items() if n in whole} == whole
    same(trained(folder, 2, strategy="fsdp", resume=str(last), **how), fsdp, close=0.0)


# --- and without ----------------------------------------------------------------------------------


def test_sharding_needs_ranks() -> None:
    model = MaskedModel({"a": ImagePatches(8, 4)}, width=8, depth=1, heads=1)
    samples = [{"id": str(i), "a": torch.rand(3, 8, 8)} for i in range(4)]
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 4, "progress": False}
    with pytest.raises(ValueError, match="shards over ranks and there is one"):
        fit(model, Reconstruction(), samples, strategy="fsdp", **settings)
