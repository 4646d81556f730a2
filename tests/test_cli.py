"""The command line and the image experiment, used as a person would."""

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multimask.cli import main
from multimask.cli.flags import run
from multimask.finetuning import Classifier

ROOT = Path(__file__).parent.parent
SMALL = "--epochs 2 --batch-size 8 --width 24 --depth 1 --heads 2 --decoder-width 16"
SMALL = f"{SMALL} --decoder-depth 1 --decoder-heads 2".split()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 24 noisy pictures: bright above, or bright to the left."""
    folder = tmp_path_factory.mktemp("photographs")
    numbers = np.random.default_rng(0)
    for label in ("above", "left"):
        (folder / label).mkdir()
        for index in range(24):
            ramp = np.linspace(200, 20, 40)
            plain = np.repeat(ramp[:, None], 40, 1)
            plain = plain if label == "above" else plain.T
            noisy = (plain[..., None] + numbers.normal(0, 20, (40, 40, 3))).clip(0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(folder / label / f"{index:02d}.png")
    return folder


def experiment(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / "image.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "photos"
    words = ["--data", str(photographs), "--out", str(out), "--image-size", "32", *SMALL]
    more = [
        "--evaluate",
        "svm,few-shot,finetune",
        "--finetune-epochs",
        "1",
        "--ways",
        "2",
        "--shots",
        "3",
    ]
    done = experiment(*words, *more, "--seeds", "2", cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert "random init" in done.stdout
    return out


def test_an_experiment_leaves_a_whole_run_folder(finished: Path) -> None:
    for name in (
        "metrics.json",
        "config.yaml",
        "model/model.safetensors",
        "model/config.json",
        "checkpoints/last.ckpt",
        "reconstructions.png",
        "masks.png",
        "curves.png",
        "log/metrics.csv",
        "seed-1/model/config.json",
    ):
        assert (finished / name).is_file(), name
    metrics = json.loads((finished / "metrics.json").read_text())
    needed = [
        "samples",
        "epochs",
        "steps",
        "loss_first",
        "loss_last",
        "loss_val",
        "samples_per_second",
        "probe_accuracy",
        "probe_accuracy_random_init",
        "knn_accuracy",
        "knn_accuracy_random_init",
        "effective_ratio",
        "peak_memory_mib",
        "config_hash",
        "git_commit",
        "versions",
        "probe_accuracy_raw_values",
        "chance",
    ]
    assert set(needed) <= set(metrics)
    assert metrics["samples"] == 36
    assert metrics["effective_ratio"] == 0.75
    assert len(metrics["probe_accuracy_by_seed"]) == 2
    assert (metrics["svm_count"], metrics["few_shot_count"]) == (12, 10)
    for what in ("svm", "few_shot"):
        assert 0.5 < metrics[f"{what}_accuracy"] <= 1
        assert len(metrics[f"{what}_accuracy_random_init_by_seed"]) == 2


def test_finetune_leaves_a_classifier_and_a_curve(
    finished: Path, photographs: Path, tmp_path: Path
) -> None:
    words = ["--model", str(finished / "model"), "--data", str(photographs), "--epochs", "1"]
    words += ["--out", str(tmp_path / "tuned"), "--shares", "0.1,1", "--min-steps", "2"]
    assert main(["finetune", *words, "--batch-size", "12"]) == 0
    metrics = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert [row["rows"] for row in metrics["shares"]] == [4, 36]
    assert 0 <= metrics["finetune_accuracy_random_init"] <= 1
    lines = (tmp_path / "tuned" / "predictions.csv").read_text().splitlines()
    assert lines[0] == "id,predicted,probability,label"
    assert len(lines) == 13
    assert (tmp_path / "tuned" / "labels.png").is_file()
    assert Classifier.load(tmp_path / "tuned" / "model").classes == ("above", "left")


def test_a_resolved_configuration_runs_again(finished: Path, tmp_path: Path) -> None:
    words = ["--config", str(finished / "config.yaml"), "--out", str(tmp_path / "again")]
    done = experiment(*words, "--seeds", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (
        json.loads((folder / "metrics.json").read_text())
        for folder in (finished, tmp_path / "again")
    )
    assert second["probe_accuracy"] == first["probe_accuracy_by_seed"][0]


def test_commands_use_a_finished_run(
    finished: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, picture = str(finished / "model"), str(photographs / "left" / "03.png")
    features = tmp_path / "features.npz"
    assert (
        main(["embed", "--model", model, "--data", str(photographs), "--out", str(features)]) == 0
    )
    with np.load(features, allow_pickle=False) as stored:
        assert stored["features"].shape == (48, 24)
        assert set(stored["label_label"]) == {"above", "left"}
        assert "left/03.png" in stored["ids"]
    assert main(["probe", "--model", model, "--data", str(photographs)]) == 0
    drawn = tmp_path / "answer.png"
    words = ["--model", model, "--data", picture, "--out", str(drawn)]
    assert main(["reconstruct", *words]) == 0
    assert drawn.is_file()
    assert main(["describe", "--model", model]) == 0
    told = capsys.readouterr().out
    assert "random weights" in told
    assert "16 visible" not in told
    assert "4 visible, 12 decoded" in told


def test_masks_draws_any_masker_with_true_counts(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = photographs / "left" / "00.png"
    for masker in ("random", "block", "grid"):
        drawn = tmp_path / f"{masker}.png"
        words = ["--data", str(picture), "--kind", "image", "--set", "size=40,patch=5"]
        words += ["--masker", masker, "--ratio", "0.6", "--out", str(drawn)]
        assert main(["masks", *words]) == 0
        assert "00.png: 25 visible, 39 hidden of 64 tokens (60.9%)" in capsys.readouterr().out
        assert np.asarray(Image.open(drawn)).std() > 0


def test_masks_takes_a_file_without_its_flag(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(photographs / "left" / "00.png")
    words = ["--kind", "image", "--set", "size=40,patch=5", "--out", str(tmp_path / "a.png")]
    assert main(["masks", "--data", picture, *words]) == 0
    named = capsys.readouterr().out
    assert main(["masks", picture, *words]) == 0
    assert capsys.readouterr().out == named
    for again in (["--data", "other.png"], ["--data=other.png"]):
        assert main(["masks", picture, *words, *again]) == 2
        assert "--data is given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--ratio", "0"], "between 0 and 1"),
        (["--ratio", "1"], "between 0 and 1"),
        (["--ratio", "1.5"], "between 0 and 1"),
        (["--ratio", "nan"], "between 0 and 1"),
        (["--image-size", "31"], "not divisible"),
        (["--batch-size", "100000"], "do not fill one batch"),
        (["--method", "magic"], "no methods plug-in is named 'magic'"),
        (["--masker", "magic"], "no parts plug-in is named 'magic'"),
        (["--size", "gigantic"], "sizes are tiny"),
        (["--precision", "fp16", "--device", "cpu"], "fp16"),
        (["--resume", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--data", "empty"], "empty"),
        (["--evaluate", "magic"], "measures are probe, knn, svm, few-shot, finetune"),
        (["--evaluate", "few-shot"], "the largest have 6, 6"),
        (["--evaluate", "svm", "--label", "colour"], "none under 'colour'"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    words: list[str],
    told: str,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    data = [] if "--data" in words else ["--data", str(photographs)]
    script = runpy.run_path(str(ROOT / "experiments" / "image.py"))
    assert run(script["main"], script["Config"], [*data, "--image-size", "32", *SMALL, *words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ": error: " in last
    assert told in last


def test_bad_files_are_skipped_counted_and_listed(photographs: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for label in ("above", "left"):
        (data / label).mkdir(parents=True)
        for file in sorted((photographs / label).iterdir()):
            (data / label / file.name).write_bytes(file.read_bytes())
    whole = (data / "left" / "00.png").read_bytes()
    (data / "left" / "00.png").write_bytes(whole[: len(whole) // 2])
    (data / "left" / "01.png").write_text("no picture")
    (data / "above" / "02.png").write_bytes(b"")
    done = experiment(
        *["--data", str(data), "--out", "run", "--image-size", "32", *SMALL], cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    listed = {name for name, _ in metrics["skipped"]}
    assert listed == {"left/00.png", "left/01.png", "above/02.png"}
    with (tmp_path / "run" / "log" / "skipped.csv").open() as stream:
        assert {row["id"] for row in csv.DictReader(stream)} <= listed


PLUGIN = '''
from dataclasses import dataclass
import torch
from multimask.tokens import Part, Tokens

@dataclass(frozen=True)
class Echo:
    """Traces of 32 numbers in windows of 4."""
    window: int = 4
    coord_dim = 1
    @property
    def token_dim(self) -> int:
        return self.window
    @property
    def num_tokens(self) -> int:
        return 32 // self.window
    @property
    def grid(self) -> tuple[int, ...]:
        return (self.num_tokens,)
    def __call__(self, part: Part) -> Tokens:
        values = part.data.unflatten(1, (self.num_tokens, self.window)).float()
        places = torch.arange(self.num_tokens, dtype=torch.float32)[None, :, None]
        return Tokens(values, places, part.rows, grid=self.grid)
'''


def test_a_package_outside_the_repository_adds_a_kind_by_name(tmp_path: Path) -> None:
    package = tmp_path / "site"
    (package / "echo_plugin-1.0.dist-info").mkdir(parents=True)
    (package / "echo_plugin.py").write_text(PLUGIN)
    about = package / "echo_plugin-1.0.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[multimask.modalities]\necho = echo_plugin:Echo\n")
    np.save(tmp_path / "traces.npy", np.sin(np.arange(40 * 32)).reshape(40, 32).astype("f4"))
    program = "import sys; from multimask.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["pretrain", "--kind", "echo", "--data", "traces.npy", "--out", "run", *SMALL]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert saved["provided_by"]["modalities/echo"] == "echo-plugin 1.0"


def test_unknown_commands_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dance"]) == 2
    assert "'dance' is no command" in capsys.readouterr().err
    assert main([]) == 0
    assert "pretrain" in capsys.readouterr().out


def test_doctor_finds_no_problem_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in told
    assert "No problems found." in told


def test_pack_makes_a_store_that_data_takes(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "photographs.zarr")
    words = ["--data", str(photographs), "--out", store, "--kind", "image", "--stored", "pixels"]
    assert main(["pack", *words, "--workers", "0"]) == 0
    assert "48 samples in" in capsys.readouterr().out
    out = str(tmp_path / "run")
    small = ["--set", "size=16,patch=8", "--out", out, *SMALL]
    assert main(["pretrain", "--kind", "image", "--data", store, *small]) == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["samples"] == 38
    features = ["--out", str(tmp_path / "features.npz"), "--model", f"{out}/model"]
    capsys.readouterr()
    assert main(["embed", "--data", store, *features]) == 0
    assert "48 vectors of 24 numbers" in capsys.readouterr().out
    assert main(["masks", "--data", store, "--kind", "spectral", "--limit", "1"]) == 2
    assert "expected the modality 'spectral', found ['image']" in capsys.readouterr().err
