"""Skeletons from end to end: the experiment, damaged files in a run, names on command lines."""

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multimask import fit, load
from multimask.cli import main as command
from multimask.cli.data import file_table, rule_of, tokenizer_of
from multimask.cli.experiment import build_recipe
from multimask.cli.flags import run
from multimask.cli.study import RunFlags
from multimask.datasets.formats.skeleton_facts import suggested
from multimask.datasets.formats.skeletons import SkeletonReader
from multimask.datasets.layouts.mocap import write_fake_bandai, write_fake_cmu
from multimask.datasets.layouts.ntu import write_fake_ntu
from multimask.datasets.motion import Clip
from multimask.datasets.synthetic_skeleton import PARENTS, walkers
from multimask.masking import Ratio, Uniform
from multimask.methods.skeletonmae import Collapse, ReweightedCosine, skeletonmae
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_masking import BodyParts
from multimask.modalities.skeleton_topologies import COCO17, NTU25, SMPL24, as_topology, tree

SCRIPT = Path(__file__).parents[1] / "experiments" / "skeleton.py"
SMALL = ["--epochs", "1", "--batch-size", "8", "--frames", "8", "--width", "32", "--workers", "0"]
TRANSFORMER = ["--depth", "1", "--decoder-width", "16", "--segment", "4"]
NAMES = [f"joint{index}" for index in range(24)]


def experiment(*words: str | Path) -> int:
    script = runpy.run_path(str(SCRIPT))
    return run(script["main"], script["Config"], [str(word) for word in words])


@pytest.fixture(scope="module")
def takes() -> list[np.ndarray]:
    """Forty short takes of five actions."""
    table = walkers(40, 10, frames=10, missing=0.0)
    return [table[row]["skeleton"].numpy() for row in range(40)]


def folder_of(takes: list[np.ndarray], folder: Path) -> Path:
    """Arrays in folders by label, with their joints named, as a user would have them."""
    for index, take in enumerate(takes):
        label = folder / f"action{index % 5}"
        label.mkdir(parents=True, exist_ok=True)
        np.save(label / f"{index:02d}.npy", 1000 * take)
    named = {"joints": NAMES, "parents": list(PARENTS), "units": "millimetre"}
    (folder / "skeleton.json").write_text(json.dumps(named))
    return folder


@pytest.mark.parametrize("method", ["mae", "skeletonmae"])
def test_a_folder_of_arrays_leaves_a_whole_run_folder(
    method: str, takes: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = folder_of(takes, tmp_path / "data"), tmp_path / "run"
    tubes = ["--masker", "joint-tubes", "--ratio", "0.4", "--size", "small"]
    words = TRANSFORMER if method == "mae" else tubes
    assert experiment("--data", data, "--out", out, "--method", method, *SMALL, *words) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["samples"] + metrics["test_samples"] == 40  # and not skeleton.json
    assert metrics["skipped"] == []
    assert 0 <= metrics["probe_accuracy"] <= 1
    for name in ("reconstructions.png", "masks.png", "curves.png", "config.yaml"):
        assert (out / name).is_file(), name
    told = capsys.readouterr().out
    assert f"look at           {out}/reconstructions.png, {out}/masks.png, {out}/curves.png" in told
    assert ("'skeletonmae' has one shape" in told) == (method == "skeletonmae")
    model = load(out / "model")
    tokenizer: Any = model.tokenizers["skeleton"]
    assert tokenizer.unit == 200  # of millimetres: how far joints lie from the middle of a body
    assert len(tokenizer.topology) == 24


def test_five_percent_of_damaged_files_are_skipped_and_listed_exactly(
    takes: list[np.ndarray], tmp_path: Path
) -> None:
    data = folder_of(takes, tmp_path / "data")
    whole = (data / "action0/00.npy").read_bytes()
    (data / "action0/00.npy").write_bytes(whole[: len(whole) // 2])
    np.save(data / "action1/01.npy", np.full((10, 24, 3), np.nan))
    words = ["--data", data, "--out", tmp_path / "run", *SMALL, *TRANSFORMER, "--epochs", "2"]
    assert experiment(*words) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    damaged = {"action0/00.npy", "action1/01.npy"}
    assert {name for name, _ in metrics["skipped"]} == damaged
    assert metrics["steps"] == 2 * (metrics["samples"] // 8)
    assert all(len(reason) > 30 for _, reason in metrics["skipped"])
    with (tmp_path / "run/log/skipped.csv").open() as stream:
        assert {row["id"] for row in csv.DictReader(stream)} == damaged


def test_the_experiment_reads_ntu_files_by_their_official_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fake_ntu(tmp_path / "ntu")
    columns = runpy.run_path(str(SCRIPT))["LAYOUTS"]["ntu60-xsub"](tmp_path / "ntu")
    words = ["--data", tmp_path / "ntu", "--layout", "ntu60-xsub", "--out", tmp_path / "run"]
    small = ["--bodies", "2", *SMALL, "--batch-size", "1", "--frames", "4", "--max-bad", "0.5"]
    assert experiment(*words, *small, *TRANSFORMER) == 0
    assert "no probes: a single training row is of class 59" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["samples"] == columns["split"].count("train")
    assert metrics["test_samples"] == columns["split"].count("test")
    assert "S002C002P001R001A060" in {name for name, _ in metrics["skipped"]}  # holds no person


def test_a_class_lost_with_damaged_files_costs_the_probes_and_not_the_run(
    takes: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of(takes[:20], tmp_path / "data")
    for action in range(1, 5):
        for file in (data / f"action{action}").iterdir():
            file.write_bytes(b"")
    words = ["--data", data, "--out", tmp_path / "run", *SMALL, *TRANSFORMER, "--batch-size", "1"]
    assert experiment(*words, "--max-bad", "0.9") == 0
    told = "no probes: of the rows that could be read, all training rows are of class action0"
    assert told in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["probe_accuracy"] is None
    assert metrics["loss_last"] is not None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--layout", "nowhere"], "there are ntu60-xsub"),
        (["--layout", "pyskl"], "name two, to train and to test on"),
        (["--topology", "ntu26"], "is unknown; there are coco17"),
        (["--frames", "10", "--segment", "4"], "not divisible"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str],
    told: str,
    takes: list[np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = folder_of(takes[:4], tmp_path / "data")
    assert experiment("--data", data, "--out", tmp_path / "run", *words) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]


def test_arrays_without_names_ask_for_a_topology(
    takes: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of(takes[:4], tmp_path / "data")
    (data / "skeleton.json").unlink()
    assert experiment("--data", data, "--out", tmp_path / "run") == 2
    assert "say --topology" in capsys.readouterr().err


# --- what files say of their skeleton -------------------------------------------------------------


def test_files_name_their_skeleton(takes: list[np.ndarray], tmp_path: Path) -> None:
    write_fake_cmu(tmp_path / "cmu")
    write_fake_bandai(tmp_path / "bandai")
    write_fake_ntu(tmp_path / "ntu")
    assert suggested(tmp_path / "cmu")["topology"]["joints"] == ["root", "leg", "foot"]
    assert suggested(tmp_path / "bandai")["topology"]["parents"] == [-1, 0]
    assert suggested(tmp_path / "ntu") == {"topology": "ntu25"}
    data = folder_of(takes[:2], tmp_path / "arrays")
    wanted = {"topology": {"joints": NAMES, "parents": list(PARENTS)}, "unit": 1000.0}
    assert suggested(data) == suggested(data / "action0/00.npy") == wanted
    flat = {"people": [{"pose_keypoints_2d": [1.0, 2.0, 0.9] * 25}]}
    (tmp_path / "frame_1.json").write_text(json.dumps(flat))
    found = suggested(tmp_path / "frame_1.json")
    assert found == {"topology": "openpose25", "dims": 2, "up": "-y"}
    np.save(tmp_path / "alone.npy", takes[0])
    assert suggested(tmp_path / "alone.npy") == {}


def test_a_damaged_first_file_does_not_hide_what_the_next_says(tmp_path: Path) -> None:
    write_fake_bandai(tmp_path)
    first = sorted(tmp_path.rglob("*.bvh"))[0]
    first.write_text("HIERARCHY\n")
    assert suggested(tmp_path)["topology"]["joints"] == ["Hips", "Leg"]


@pytest.mark.parametrize("text", ["[]", "{", '{"joints": ["a"]}', '{"joints": 3, "parents": [0]}'])
def test_a_skeleton_file_that_names_no_tree_is_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "skeleton.json").write_text(text)
    with pytest.raises(ValueError, match=r"skeleton\.json: expected"):
        suggested(tmp_path)


def test_a_skeleton_file_may_name_body_parts(tmp_path: Path) -> None:
    """A limb without its first joint, which hangs on the trunk, as SkeletonMAE's parts are."""
    parts = {"trunk": ["hips", "hip_r"], "leg": ["knee_r", "foot_r"]}
    told = {"joints": ["hips", "hip_r", "knee_r", "foot_r"], "parents": [-1, 0, 1, 2]}
    (tmp_path / "skeleton.json").write_text(json.dumps({**told, "parts": parts}))
    found = as_topology(suggested(tmp_path)["topology"])
    assert found.parts == {"trunk": (0, 1), "leg": (2, 3)}
    parts["leg"][0] = "knie"
    with pytest.raises(ValueError, match="has the joint 'knie', which is not there"):
        as_topology({**told, "parts": parts})
    with pytest.raises(ValueError, match="every joint must be in exactly one part"):
        as_topology({**told, "parts": {"leg": ["knee_r"]}})
    (tmp_path / "skeleton.json").write_text(json.dumps({**told, "parts": ["leg"]}))
    with pytest.raises(ValueError, match='expected "parts"'):
        suggested(tmp_path)


def test_a_topology_may_be_given_by_name_or_as_data() -> None:
    assert SkeletonJoints.spelled({"topology": "coco17", "dims": 2}) == {
        "topology": COCO17,
        "dims": 2,
    }
    assert tokenizer_of("skeleton", ["topology=coco17", "dims=2"]).token_dim == 2
    chain = {"joints": ["a", "b"], "parents": [-1, 0]}
    assert as_topology(chain) == tree(["a", "b"], [-1, 0])
    assert as_topology(NTU25) is NTU25
    with pytest.raises(ValueError, match="expected joints and parents"):
        as_topology({"bones": []})
    assert SMPL24.right_parts == ("right_arm", "right_leg")


# --- maskers by name ------------------------------------------------------------------------------

MASKERS = ["random", "body-parts", "joint-tubes", "whole-frames", "moving", "block", "grid"]


@pytest.mark.parametrize("masker", MASKERS)
def test_every_masker_is_drawn_on_a_file_with_true_counts(
    masker: str, takes: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of(takes[:1], tmp_path / "data")
    words = ["masks", "--kind", "skeleton", "--data", str(data / "action0/00.npy")]
    more = ["--set", "frames=8,segment=2", "--masker", masker, "--ratio", "0.5"]
    assert command([*words, *more, "--out", str(tmp_path / "masks.png")]) == 0
    printed = capsys.readouterr().out
    assert "00.npy: 48 visible, 48 hidden of 96 tokens (50.0%)" in printed
    assert (tmp_path / "masks.png").is_file()


def test_rules_are_fitted_to_the_skeleton() -> None:
    flat = {"pose": SkeletonJoints(COCO17, dims=2)}
    assert rule_of("body-parts", flat) == BodyParts(COCO17)
    assert rule_of("moving", flat).dims == 2  # type: ignore[attr-defined]
    assert rule_of("random", flat) == Uniform()


def test_a_method_that_takes_a_masker_gets_rule_and_ratio_together() -> None:
    flags = RunFlags(method="skeletonmae", masker="body-parts", ratio=0.5, width=16)
    masker: Any = build_recipe(flags, {"pose": SkeletonJoints(COCO17, 8)}).objective.masker  # type: ignore[attr-defined]
    assert masker.rule == BodyParts(COCO17)
    assert masker.budget == Ratio(0.5)


def test_one_array_file_is_one_clip_and_not_a_table_of_frames(
    takes: list[np.ndarray], tmp_path: Path
) -> None:
    data = folder_of(takes[:1], tmp_path / "data")
    file = data / "action0/00.npy"
    tokenizer = tokenizer_of("skeleton", ["frames=8"], file)
    table = file_table(file, "skeleton", "skeleton", tokenizer)
    assert len(table) == 1
    assert table[0]["skeleton"].shape == (1, 8, 24, 3)


def test_the_fitted_reader_gives_what_its_tokenizer_wants() -> None:
    tokenizer = SkeletonJoints(COCO17, frames=6, dims=2, bodies=2)
    reader = SkeletonReader.fitted(tokenizer, augment=True)
    assert (reader.clip, reader.bodies, reader.joints) == (Clip(6), 2, 17)
    assert reader.augment is not None
    assert reader.augment.turn == 0  # pictures do not lie on their side
    assert SkeletonReader.fitted(tokenizer, augment=False).augment is None


# --- learning -------------------------------------------------------------------------------------


def test_training_watches_the_spread_of_latents_and_stops_where_they_collapse() -> None:
    torch.manual_seed(0)
    table = walkers(16, 8, frames=8)
    recipe = skeletonmae({"skeleton": SkeletonJoints(SMPL24, frames=8)}, width=16)
    objective = recipe.objective
    assert isinstance(objective, ReweightedCosine)
    quiet: dict[str, Any] = {"epochs": 2, "batch_size": 8, "progress": False}
    objective.check_every = 1
    fit(recipe.model, objective, table, **quiet)
    assert objective.steps == 6
    assert 0.05 < float(objective.spread) <= 1  # of healthy training
    with torch.no_grad():  # all that the encoder says now points one way
        recipe.model.encoder.stack.after[-1][0].weight.zero_()  # type: ignore[union-attr,index]
        recipe.model.encoder.stack.after[-1][0].bias.fill_(1.0)  # type: ignore[union-attr,index]
    with pytest.raises(Collapse, match="they all point one way"):
        fit(recipe.model, objective, table, lr=1e-9, **quiet)
