"""Motion files: what is read, and one sentence for whatever is wrong with one."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from multimask.datasets.formats.motion import linked
from multimask.datasets.formats.skeletons import SkeletonReader
from multimask.datasets.layouts.kinetics_skeleton import kinetics_skeleton, write_fake_kinetics
from multimask.datasets.layouts.mocap import (
    ASF,
    BVH,
    bandai_namco,
    cmu_mocap,
    write_fake_bandai,
    write_fake_cmu,
)
from multimask.datasets.layouts.ntu import SUBJECTS_60, SUBJECTS_120, ntu, write_fake_ntu
from multimask.datasets.layouts.pyskl import pyskl, write_fake_pyskl
from multimask.datasets.motion import Augment, Clip, centred, most_active
from multimask.datasets.synthetic_skeleton import ACTIONS, PARENTS, clip, walkers
from multimask.datasets.table import Table
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_topologies import NTU25, SMPL24, tree
from multimask.modality import collate
from multimask.tokens import BadSample, sample_generator

READER = SkeletonReader(bodies=None)
RAW = {"skeleton": SkeletonReader()}


# --- NTU ------------------------------------------------------------------------------------------


def ntu_file(folder: Path, index: int) -> Path:
    name = write_fake_ntu(folder)[index]
    return folder / "nturgb+d_skeletons" / name


def test_two_bodies_are_two_rows(tmp_path: Path) -> None:
    data = READER.read(ntu_file(tmp_path, 1))
    assert data.shape == (2, 6, 25, 3)
    assert data.isfinite().all()


def test_frames_without_a_body_are_unknown(tmp_path: Path) -> None:
    data = READER.read(ntu_file(tmp_path, 2))
    assert data.shape == (1, 6, 25, 3)
    assert data.isnan().all(dim=-1).all(dim=-1)[0].tolist() == [0, 0, 1, 1, 0, 0]


def test_a_body_whose_id_changes_stays_one_body(tmp_path: Path) -> None:
    file = ntu_file(tmp_path, 3)
    bodies = [line.split()[0] for line in file.read_text().split("\n") if "0 1 1 1 1 0" in line]
    assert len(set(bodies)) == 2
    data = READER.read(file)
    assert data.shape == (1, 6, 25, 3)
    assert data.isfinite().all()


def test_a_take_without_any_body_is_a_bad_sample(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match="found none in any of 6 frames"):
        READER.read(ntu_file(tmp_path, 4))


def test_joints_that_are_not_tracked_are_unknown(tmp_path: Path) -> None:
    file = ntu_file(tmp_path, 0)
    lines = file.read_text().split("\n")
    lines[4] = lines[4][:-1] + "0"  # the first joint of the first frame
    lines[5] = lines[5][:-1] + "1"  # inferred
    lines[6] = "0 0 0 " + " ".join(lines[6].split()[3:])
    file.write_text("\n".join(lines))
    unknown = READER.read(file)[0, 0].isnan().any(dim=-1)
    assert unknown.nonzero().flatten().tolist() == [0, 2]


def single(numbers: list[float]) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def test_people_who_pass_each_other_keep_their_rows() -> None:
    pose = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    frames = []
    for step in range(20):
        a, b = single([0.1 * step, 0, 0]), single([2 - 0.1 * step, 0, 0.4])
        named = [("7", pose + a), ("9", pose + b)]
        frames.append(named if step % 2 else named[::-1])  # listed in any order
    data = linked(frames)
    assert data.shape == (2, 20, 5, 3)
    x = data[:, :, 0, 0] - pose[0, 0]
    assert np.allclose(np.abs(np.diff(x, axis=1)), 0.1, atol=1e-5)


# --- JSON -----------------------------------------------------------------------------------------


def person(x: float, joints: int = 25, confidence: float = 0.9) -> dict:
    flat = [value for joint in range(joints) for value in (x + joint, 10.0 * joint, confidence)]
    return {"person_id": [-1], "pose_keypoints_2d": flat}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_folder_of_openpose_frames_is_a_clip(tmp_path: Path) -> None:
    for frame in (3, 4, 6, 12):
        people = [person(frame), person(frame + 500)]
        people[0]["pose_keypoints_2d"][2] = 0.0  # no confidence in the first joint
        people = people[::-1] if frame == 4 else people  # OpenPose names nobody and keeps no order
        write(tmp_path / f"clip_{frame:012d}_keypoints.json", {"version": 1.3, "people": people})
    data = READER.read(tmp_path)
    assert data.shape == (2, 10, 25, 2)
    assert data[0, :, 1, 0].tolist()[:2] == [4, 5]
    assert data[0, 2].isnan().all()  # frame 5 is not there
    assert data[0, 0, 0].isnan().all()
    assert data[1, 9, 3].tolist() == [12 + 500 + 3, 30]


def test_coco_results_are_a_clip_a_frame_an_image(tmp_path: Path) -> None:
    def entry(image: object, x: float, track: int) -> dict:
        flat = [value for joint in range(17) for value in (x + joint, 1.0, 2 * (joint != 5))]
        return {"image_id": image, "category_id": 1, "keypoints": flat, "idx": track}

    found = [entry("10.jpg", 7, 1), entry("2.jpg", 5, 1), entry("10.jpg", 5, 2)]
    data = READER.read(write(tmp_path / "results.json", found))
    assert data.shape == (2, 2, 17, 2)
    assert data[0, :, 0, 0].tolist() == [5, 7]  # 2.jpg comes before 10.jpg
    assert data[1, 0].isnan().all()
    assert data[0, 0, 5].isnan().all()
    images = [{"id": 1}, {"id": 2}, {"id": 3}]
    annotations = [{"image_id": 2, "keypoints": entry(2, 1, 0)["keypoints"]}]
    whole = {"images": images, "annotations": annotations}
    data = READER.read(write(tmp_path / "annotations.json", whole))
    assert data.isfinite().any(dim=-1).any(dim=-1)[0].tolist() == [False, True, False]


def test_confidence_below_what_is_asked_is_unknown(tmp_path: Path) -> None:
    path = write(tmp_path / "a_0.json", {"people": [person(0, 18, 0.3)]})
    assert READER.read(path).shape == (1, 1, 18, 2)
    with pytest.raises(BadSample, match="expected a joint that is known"):
        SkeletonReader(least=0.5).read(path)


# --- motion capture -------------------------------------------------------------------------------


def test_bvh_kinematics_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.bvh"
    path.write_text(BVH)
    motion = SkeletonReader(ends=True).motion(path)
    assert motion.joints == ("Hips", "Leg", "Leg_end")
    assert motion.parents == (-1, 0, 1)
    assert motion.rate == pytest.approx(30, rel=1e-3)
    # second frame: the root steps 5 forward, the leg turns 90 degrees about x: down becomes back
    wanted = [[0, 90, 5], [0, 50, 5], [0, 50, 5 - 40]]
    assert np.allclose(motion.data[0, 1], wanted, atol=1e-5)
    assert np.allclose(motion.data[0, 0], [[0, 90, 0], [0, 50, 0], [0, 10, 0]], atol=1e-5)


def test_asf_amc_kinematics_by_hand(tmp_path: Path) -> None:
    (tmp_path / "01.asf").write_text(ASF)
    frames = "1\nroot 0 18 0 0 90 0\nleg 0 0 0\n2\nroot 0 18 0 0 0 0\nleg 90 0 0\n"
    (tmp_path / "01_01.amc").write_text(f":FULLY-SPECIFIED\n:DEGREES\n{frames}")
    motion = READER.motion(tmp_path / "01_01.amc")
    metre = 0.0254 / 0.45
    assert motion.joints == ("root", "leg", "foot")
    # first frame: the root turns 90 degrees about y, so the foot points to +x
    wanted = np.array([[0, 18, 0], [0, 9, 0], [2, 9, 0]]) * metre
    assert np.allclose(motion.data[0, 0], wanted, atol=1e-5)
    # second: 90 degrees about the leg's own x axis, which its 20 degrees about z turn in the plane
    sin, cos = np.sin(np.radians(20)), np.cos(np.radians(20))
    x = np.array([cos, sin, 0])
    down = np.array([0, -1.0, 0])
    turned = x * (x @ down) + np.cross(x, down)  # Rodrigues at 90 degrees
    assert np.allclose(motion.data[0, 1, 1], (np.array([0, 18, 0]) + 9 * turned) * metre, atol=1e-5)


def test_bones_keep_their_length(shared_data: Path) -> None:
    for file in ("bvh/dataset-2_run_active_048.bvh", "cmu_mocap/11_01.amc"):
        motion = READER.motion(shared_data / "skeleton" / file)
        joints = [joint for joint, parent in enumerate(motion.parents) if parent > 0]
        parents = [motion.parents[joint] for joint in joints]
        length = np.linalg.norm(motion.data[0][:, joints] - motion.data[0][:, parents], axis=-1)
        assert (length.std(axis=0) < 1e-3 * length.mean()).all(), file
        assert motion.data[0, :, :, 1].min() > -0.1 * np.ptp(motion.data[0, 0, :, 1])  # y is up


def test_a_real_run_looks_like_one(shared_data: Path) -> None:
    motion = READER.motion(shared_data / "skeleton/bvh/dataset-2_run_active_048.bvh")
    names = {name: joint for joint, name in enumerate(motion.joints)}
    left, right = (motion.data[0, :, names[f"Foot_{side}"]] for side in "LR")
    height = left[:, 1] - right[:, 1]
    assert (height > 10).any()
    assert (height < -10).any()  # each foot is the higher one at times, in centimetres
    assert np.ptp(motion.data[0, :, names["Hips"], 2]) > 300
    assert (motion.data[0, :, names["Head"], 1] > motion.data[0, :, names["Hips"], 1] + 20).all()


def test_cmu_hands_hang_below_the_shoulders_of_who_walks(shared_data: Path) -> None:
    motion = READER.motion(shared_data / "skeleton/cmu_mocap/11_01.amc")
    names = {name: joint for joint, name in enumerate(motion.joints)}
    first = motion.data[0, 0]
    assert 1.4 < first[names["head"], 1] < 1.9  # metres
    assert first[names["lfoot"], 1] < 0.2
    assert first[names["lhand"], 1] < first[names["lhumerus"], 1]
    assert motion.data.shape == (1, 597, 31, 3)


def test_ntu_layout_files_of_real_motion(shared_data: Path) -> None:
    folder = shared_data / "skeleton/ntu_layout"
    shapes = [READER.read(folder / f"S001C001P001R001A00{take}.skeleton").shape for take in (1, 4)]
    assert shapes == [(1, 45, 25, 3), (2, 45, 25, 3)]
    gaps = READER.read(folder / "S001C001P001R001A002.skeleton")[0].isnan().all(dim=-1).all(dim=-1)
    assert int(gaps.sum()) == 2


def test_the_bandai_set_is_a_table_as_it_lies(shared_data: Path) -> None:
    folder = shared_data / "skeleton/bandai_namco_2"
    reader = SkeletonReader(Clip(32), joints=21, dims=3, centre="clip")
    table = Table.from_csv(folder / "labels.csv", {"file": "skeleton"}, {"skeleton": reader})
    facts = json.loads((folder / "skeleton.json").read_text())
    skeleton = tree(facts["joints"], facts["parents"])
    tokenizer = SkeletonJoints(skeleton, frames=32, unit=1000.0)
    batch = collate([table[row] for row in range(8)], {"skeleton": tokenizer})
    tokens = tokenizer(batch.parts["skeleton"])
    assert tokens.values.abs().max() < 5  # metres
    assert skeleton.mirror[skeleton.joints.index("Hand_L")] == skeleton.joints.index("Hand_R")


# --- arrays ---------------------------------------------------------------------------------------


def test_axes_are_those_that_are_named_and_never_guessed(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(2, 5, 17, 3)).astype(np.float32)
    np.save(tmp_path / "mtvc.npy", data)
    np.save(tmp_path / "ctvm.npy", data.transpose(3, 1, 2, 0))
    np.save(tmp_path / "tvc.npy", data[0])
    assert np.array_equal(READER.read(tmp_path / "mtvc.npy"), data)
    assert np.array_equal(READER.read(tmp_path / "tvc.npy")[0], data[0])
    other = SkeletonReader(bodies=None, axes="ctvm")
    assert np.array_equal(other.read(tmp_path / "ctvm.npy"), data)
    assert other.probe(tmp_path / "ctvm.npy")["frames"] == 5
    with pytest.raises(BadSample, match=r"expected 17 joints, found 3"):
        SkeletonReader(joints=17, axes="mtcv").read(tmp_path / "mtvc.npy")


def test_npz_entries_and_confidences(tmp_path: Path) -> None:
    data = np.ones((4, 17, 3), np.float32)
    data[1, 2, 2] = 0
    np.savez(tmp_path / "a.npz", pose=data, other=data)
    with pytest.raises(BadSample, match="expected one array, found pose, other"):
        READER.read(tmp_path / "a.npz")
    read = SkeletonReader(entry="pose", confidence=True).read(tmp_path / "a.npz")
    assert read.shape == (1, 4, 17, 2)
    assert read[0, 1, 2].isnan().all()
    assert read.isnan().sum() == 2


def test_missing_joints_of_an_array_are_nan(shared_data: Path) -> None:
    data = READER.read(shared_data / "bad/skeleton/nan_joints.npy")
    assert data.shape == (1, 20, 21, 3)
    assert 0 < data.isnan().sum() < data.numel()


# --- what is wrong with a file --------------------------------------------------------------------


def broken(kind: str, folder: Path) -> Path:
    """One file in each of many ways of being wrong."""
    good = {
        "skeleton": lambda path: path.write_bytes(ntu_file(folder, 0).read_bytes()),
        "bvh": lambda path: path.write_text(BVH),
        "json": lambda path: path.write_text(json.dumps({"people": [person(0)]})),
        "npy": lambda path: np.save(path, np.zeros((4, 17, 3), np.float32)),
        "npz": lambda path: np.savez(path, a=np.zeros((4, 17, 3), np.float32)),
        "amc": lambda path: path.write_text("1\nroot 0 18 0 0 0 0\nleg 0 0 0\n"),
    }[kind]
    path = folder / f"a.{kind}"
    good(path)
    (folder / "a.asf").write_text(ASF)
    return path


KINDS = ["skeleton", "bvh", "json", "npy", "npz", "amc"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", ["empty", "folder", "missing", "unreadable", "binary", "pickle"])
def test_what_is_no_such_file_is_one_sentence(kind: str, wrong: str, tmp_path: Path) -> None:
    path = broken(kind, tmp_path)
    if wrong == "unreadable":
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        path.chmod(0)
    elif wrong == "binary":
        path.write_bytes(bytes(range(256)) * 50)
    elif wrong == "pickle":
        path.write_bytes(pickle.dumps({"keypoint": [1]}))
    else:
        path.unlink()
        if wrong == "empty":
            path.touch()
        elif wrong == "folder":
            path.mkdir()
    with pytest.raises(BadSample, match="expected") as caught:
        READER.read(path)
    says_it(caught.value, path)
    with pytest.raises(BadSample, match="expected"):
        READER.probe(path)


def says_it(error: BadSample, path: Path) -> None:
    text = str(error)
    assert str(path.parent) in text
    assert "found" in text
    assert "Traceback" not in text
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_no_cut_or_flipped_file_does_more_than_say_so(kind: str, tmp_path: Path) -> None:
    path = broken(kind, tmp_path)
    whole = path.read_bytes()
    wanted = READER.read(path)
    generator = np.random.default_rng(0)
    refused = 0
    for cut in np.linspace(1, len(whole) - 12, 40).astype(int):
        path.write_bytes(whole[:cut])
        try:
            READER.read(path)
        except BadSample as error:
            says_it(error, path)
            refused += 1
    assert refused >= 39, "a cut file was read as if it were whole"
    for _ in range(60):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 3):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert READER.read(path).ndim == wanted.ndim
        except BadSample as error:
            says_it(error, path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    for kind in KINDS:
        path = tmp_path / f"p.{kind}"
        os.mkfifo(path)
        (tmp_path / "p.asf").write_text(ASF)
        with pytest.raises(BadSample, match="found a pipe"):
            READER.read(path)


def huge_npy(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }"
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64)


def huge_npz(path: Path) -> None:
    huge_npy(path.with_suffix(".npy"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".npy"), "a.npy")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.npy", huge_npy),
        ("a.npz", huge_npz),
        ("a.skeleton", lambda path: path.write_text("1000000000000\n1\n")),
        ("a.bvh", lambda path: path.write_text(BVH.replace("Frames: 2", "Frames: 1000000000000"))),
        ("a.json", lambda path: write(path, kinetics_frame(10**12))),
        ("a_1.json", lambda path: write(path, {"people": [], "x": "y" * 100})),
    ],
)
def test_a_header_that_lies_allocates_nothing(
    name: str, make: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(BadSample) as caught:
        READER.read(tmp_path / name)
    says_it(caught.value, tmp_path / name)


def kinetics_frame(index: int) -> dict:
    return {"data": [{"frame_index": index, "skeleton": [{"pose": [0.5, 0.5], "score": [1.0]}]}]}


def test_a_folder_whose_numbers_span_ages_is_refused(tmp_path: Path) -> None:
    for frame in (0, 10**11):
        write(tmp_path / f"{frame:012d}_keypoints.json", {"people": [person(1)]})
    with pytest.raises(BadSample, match="expected 1 to 100,000 frames"):
        READER.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated.skeleton", "frame 23 of 45, found the end of the file after line 633"),
        ("truncated.bvh", "expected 60 frames of 132 numbers, found 2,962 numbers, 22.44 frames"),
    ],
)
def test_the_damaged_examples(name: str, message: str, shared_data: Path) -> None:
    with pytest.raises(BadSample, match=message):
        READER.read(shared_data / "bad/skeleton" / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("\n25\n", "\n20\n"), "expected 25 joints, found 20"),
        (lambda text: text + "1 2 3\n", "line 170: expected nothing after frame 6"),
        (lambda text: text.replace(" 2\n", "\n", 3), "found 9|found 11"),
        (lambda text: text.replace("250.1", "many", 1), "expected numbers"),
        (lambda text: "-3" + text[1:], "expected the number of frames, found '-3'"),
        (lambda text: "0\n", "expected 1 to 100,000 frames, found 0"),
    ],
)
def test_ntu_damage_is_named_with_its_line(change, message: str, tmp_path: Path) -> None:
    file = ntu_file(tmp_path, 0)
    file.write_text(change(file.read_text()))
    with pytest.raises(BadSample, match=message):
        READER.read(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ROOT", "TWIG", "expected ROOT, found 'TWIG'"),
        ("CHANNELS 3 Z", "CHANNELS 9 Z", "at most 6 channels"),
        (
            "Zrotation Xrotation Yrotation\n    End",
            "Zrotation Zrotation Yrotation\n    End",
            "differ",
        ),
        ("OFFSET 0 -40 0\n    C", "C", "expected an OFFSET of 'Leg'"),
        ("Frame Time: 0.0333333", "Frame Time: 0", "above 0 seconds"),
        ("0 90 5 0", "0 90 nan 0", "finite numbers"),
        ("0 90 5 0", "0 90 five 0", "found other text"),
        ("Frames: 2", "Frames: 3", "expected 3 frames of 9 numbers, found 18 numbers, 2.00 frames"),
        ("}\n}\nMOTION", "}\nMOTION", "JOINT, End or }"),
    ],
)
def test_bvh_damage_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in BVH
    path = tmp_path / "a.bvh"
    path.write_text(BVH.replace(old, new, 1))
    with pytest.raises(BadSample, match=message):
        READER.read(path)


@pytest.mark.parametrize(
    ("asf", "amc", "message"),
    [
        (ASF.replace("leg foot", "leg leg"), None, "expected a tree from the root"),
        (ASF.replace("    leg foot\n", ""), None, "expected 'foot' in the hierarchy"),
        (ASF.replace("root leg", "root arm"), None, "expected the name of a bone, found 'arm'"),
        (ASF.replace(":hierarchy", ":h"), None, "with a section :hierarchy"),
        (ASF.replace("TX TY", "TX"), None, "expected a root order"),
        (ASF.replace("length 9", "length long"), None, "expected a length, found 'long'"),
        (ASF, "1\nroot 0 0 0 0 0 0\nleg 0 0\n", "line 3: expected 3 numbers of 'leg'"),
        (ASF, "1\nroot 0 0 0 0 0 0\ntail 0\n", "expected a bone of its ASF file, found 'tail'"),
        (ASF, "1\nroot 0 0 0 0 0 0\n", "expected 'leg' in frame 1"),
        (ASF, ":RADIANS\n1\n", "expected angles in :DEGREES"),
    ],
)
def test_asf_and_amc_damage_is_named(
    asf: str, amc: str | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.asf").write_text(asf)
    (tmp_path / "a.amc").write_text(amc or "1\nroot 0 18 0 0 0 0\nleg 0 0 0\n")
    with pytest.raises(BadSample, match=message):
        READER.read(tmp_path / "a.amc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"people": [{"pose_keypoints_2d": [1, 2]}]}, "expected 3 numbers a joint, found 2"),
        (
            {"people": [{"pose_keypoints_2d": ["a", 2, 3]}]},
            "expected numbers in 'pose_keypoints_2d'",
        ),
        ({"people": [3]}, "expected an object, found int"),
        ({"people": []}, "expected a body, found none"),
        ({"people": [person(0), person(0, 18)]}, "expected one number of joints"),
        ({"keypoint": [[[[1, 2]], [[1, 2], [3, 4]]]]}, "unequal lengths"),
        ({"keypoint": [[[[1.0, 2.0]]]], "total_frames": 9}, "9 frames"),
        ({"annotations": [{"keypoint": []}], "split": {}}, "layout `pyskl`"),
        ({"hello": 1}, r"found \['hello'\]"),
        ([], "found list"),
        ({"people": [{"pose_keypoints_2d": [1e400, 2, 3]}]}, "infinite"),
    ],
)
def test_json_of_other_contents_is_named(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadSample, match=message):
        READER.read(write(tmp_path / "a_1.json", content))


def test_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * 200_000)
    with pytest.raises(BadSample, match="no whole JSON"):
        READER.read(path)


def test_arrays_of_other_things_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "text.npy", np.full((4, 17, 3), "a"))
    np.save(tmp_path / "inf.npy", np.full((4, 17, 3), np.inf))
    np.save(tmp_path / "nan.npy", np.full((4, 17, 3), np.nan))
    np.save(tmp_path / "flat.npy", np.zeros((4, 51)))
    for name, message in {
        "object": "may run code",
        "text": "expected numbers",
        "inf": "infinite",
        "nan": "NaN only",
        "flat": r"axes 'mtvc', found shape \(4, 51\)",
    }.items():
        with pytest.raises(BadSample, match=message):
            READER.read(tmp_path / f"{name}.npy")


def test_pickles_and_strangers_are_refused_by_name(tmp_path: Path) -> None:
    for name, message in {
        "a.pkl": "found a pickle",
        "a.txt": "found .txt",
        "a": "no suffix",
    }.items():
        (tmp_path / name).write_text("x")
        with pytest.raises(BadSample, match=message):
            READER.read(tmp_path / name)


def test_mixed_joint_counts_in_a_table_are_found(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 17, 3)))
    np.save(tmp_path / "b.npy", np.zeros((4, 25, 3)))
    reader = SkeletonReader(joints=25)
    table = Table.from_folder(tmp_path, "skeleton", reader)
    assert table[1]["skeleton"].shape == (1, 4, 25, 3)
    with pytest.raises(BadSample, match=r"a\.npy: expected 25 joints, found 17"):
        table[0]
    with pytest.raises(BadSample, match="expected 25 joints, found 17"):
        reader.probe(tmp_path / "a.npy")


# --- in time and place ----------------------------------------------------------------------------


def generator(name: str = "a") -> torch.Generator:
    return sample_generator(0, 0, name, "augment")


def test_clips_are_deterministic_without_a_generator_and_random_with_one() -> None:
    crop, spread = Clip(4), Clip(4, "resample")
    assert crop(10).tolist() == [3, 4, 5, 6]
    assert crop(3).tolist() == [0, 1, 2]
    assert spread(8).tolist() == [1, 3, 5, 7]
    assert spread(2).tolist() == [0, 0, 1, 1]
    starts = {int(crop(10, generator(str(name)))[0]) for name in range(60)}
    assert starts == set(range(7))
    for name in range(20):
        drawn = spread(100, generator(str(name)))
        assert (drawn // 25).tolist() == [0, 1, 2, 3]
    assert crop(10, generator()).tolist() == crop(10, generator()).tolist()


def test_centring_puts_the_root_at_zero_and_fills_its_gaps() -> None:
    data = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    frame = centred(data, (1,), "frame")
    assert np.allclose(frame[0, :, 1], 0)
    assert np.allclose(frame[1] - frame[0], data[1] - data[0], atol=1e-6)  # both moved alike
    once = centred(data, (0, 1), "clip")
    assert np.allclose(once[0, 0, :2].mean(axis=0), 0, atol=1e-6)
    assert np.allclose(np.diff(once, axis=1), np.diff(data, axis=1), atol=1e-5)
    lost = data.copy()
    lost[0, 2, 1] = np.nan
    between = (data[0, 1, 1] + data[0, 3, 1]) / 2
    assert np.allclose(centred(lost, (1,), "frame")[0, 2, 0], data[0, 2, 0] - between, atol=1e-6)
    lost[0, :, 1] = np.nan
    with pytest.raises(BadSample, match="found it in none"):
        centred(lost, (1,), "frame")
    with pytest.raises(BadSample, match="expected joint 9, the root, found 4 joints"):
        centred(data, (9,), "frame")


def test_the_most_active_bodies_are_kept() -> None:
    data = np.zeros((3, 10, 4, 3), np.float32)
    data[1] = np.arange(10)[:, None, None]
    data[2] = np.nan
    assert np.array_equal(most_active(data, 1), data[1:2])
    assert np.array_equal(most_active(data, 2), data[[1, 0]])
    assert np.isnan(most_active(data, 3)[2]).all()


def test_augmentation_turns_about_the_vertical_mirrors_and_keeps_distances() -> None:
    rest = np.random.default_rng(0).normal(size=(1, 6, 24, 3)).astype(np.float32)
    turned = Augment(turn=180.0)(rest, generator())
    assert np.allclose(turned[..., 1], rest[..., 1], atol=1e-5)
    assert np.allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(rest, axis=-1), atol=1e-5)
    assert not np.allclose(turned, rest)
    flips = [Augment(mirror=SMPL24.mirror)(rest, generator(str(n))) for n in range(20)]
    mirrored = rest[:, :, list(SMPL24.mirror)] * single([-1, 1, 1])
    alike = [np.array_equal(flip, mirrored) for flip in flips]
    assert any(alike)
    assert all(same or np.array_equal(flip, rest) for same, flip in zip(alike, flips, strict=True))
    long = np.tile(rest, (1, 50, 1, 1))
    assert np.isnan(Augment(drop=0.3)(long, generator())).mean() == pytest.approx(0.3, abs=0.03)
    assert Augment(turn=90.0, noise=1.0, drop=0.5)(rest) is rest  # nothing without a generator
    once, again = (Augment(noise=0.1)(rest, generator()) for _ in range(2))
    assert np.array_equal(once, again)


# --- layouts --------------------------------------------------------------------------------------


def test_ntu_splits_are_the_official_ones(tmp_path: Path) -> None:
    assert len(SUBJECTS_60) == 20
    assert len(SUBJECTS_120) == len(set(SUBJECTS_120)) == 53
    write_fake_ntu(tmp_path)
    columns = ntu(tmp_path)
    assert max(columns["label"]) == 59
    assert len(columns["id"]) == 6  # the fake set has twelve, half of them of actions above 60
    for subject, split in zip(columns["subject"], columns["split"], strict=True):
        assert (split == "train") == (subject in SUBJECTS_60)
    columns = ntu(tmp_path, "xview")
    for camera, split in zip(columns["camera"], columns["split"], strict=True):
        assert (split == "train") == (camera in (2, 3))
    columns = ntu(tmp_path, "xset", 120)
    assert len(columns["id"]) == 12
    for setup, split in zip(columns["setup"], columns["split"], strict=True):
        assert (split == "train") == (setup % 2 == 0)
    with pytest.raises(ValueError, match="xsub and xset of 120"):
        ntu(tmp_path, "xview", 120)


def test_an_ntu_table_reads_like_any_other(tmp_path: Path) -> None:
    write_fake_ntu(tmp_path)
    table = Table.of(ntu(tmp_path, "xsub", 120), RAW, tmp_path)
    tokenizer = SkeletonJoints(NTU25, frames=6, bodies=2)
    read, bad = [], []
    for row in range(len(table)):
        try:
            read.append(table[row])
        except BadSample as error:
            bad.append(str(error))
    assert len(read) == 11
    assert "found none in any of 6 frames" in bad[0]
    batch = collate(read, {"skeleton": tokenizer})
    assert batch.labels["split"].count("train") > 0
    assert tokenizer(batch.parts["skeleton"]).values.shape == (11, 2 * 6 * 25, 3)


def test_the_other_layouts_read_their_own_fakes(tmp_path: Path) -> None:
    write_fake_kinetics(tmp_path / "kinetics")
    table = Table.of(kinetics_skeleton(tmp_path / "kinetics"), RAW, tmp_path / "kinetics")
    assert [table[row]["skeleton"].shape for row in range(3)] == [(1, 5, 18, 2)] * 3
    assert list(table.columns["split"]) == ["train", "train", "val"]
    both = SkeletonReader(bodies=None).read(tmp_path / "kinetics/kinetics_train/bbb.json")
    assert both.shape == (2, 5, 18, 2)

    write_fake_cmu(tmp_path / "cmu")
    table = Table.of(cmu_mocap(tmp_path / "cmu"), RAW, tmp_path / "cmu")
    assert list(table.columns["subject"]) == ["01", "01", "02"]
    assert table[2]["skeleton"].shape == (1, 2, 3, 3)

    write_fake_bandai(tmp_path / "bandai")
    table = Table.of(bandai_namco(tmp_path / "bandai"), RAW, tmp_path / "bandai")
    assert sorted(table.columns["label"]) == ["raise-up-both-hands", "walk", "walk"]
    assert table[0]["skeleton"].shape == (1, 2, 2, 3)

    write_fake_pyskl(tmp_path / "set.json")
    columns = pyskl(tmp_path / "set.json", "xsub_train", "xsub_val")
    assert columns["split"] == ["train", "train", "test", "test"]
    reader = SkeletonReader(Clip(4), bodies=2)
    table = Table.of(columns, {"skeleton": reader})
    assert table[1]["skeleton"].shape == (2, 4, 17, 2)
    assert columns["skeleton"][2][0, 0].shape == (17, 2)
    assert np.isnan(columns["skeleton"][2][0, 0, 2]).all()  # its score is zero


@pytest.mark.parametrize("layout", [ntu, kinetics_skeleton, cmu_mocap, bandai_namco])
def test_a_layout_says_what_it_expected(layout, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected .* found none"):
        layout(tmp_path)
    with pytest.raises(ValueError, match=r"expected .* found none"):
        layout(tmp_path / "nowhere")


def test_a_pyskl_file_with_a_bad_clip_names_it(tmp_path: Path) -> None:
    write_fake_pyskl(tmp_path / "set.json")
    content = json.loads((tmp_path / "set.json").read_text())
    with pytest.raises(ValueError, match="has no split 'nope', only xsub_train, xsub_val"):
        pyskl(tmp_path / "set.json", "nope")
    content["annotations"][1]["keypoint"][0].pop()
    write(tmp_path / "set.json", content)
    with pytest.raises(ValueError, match="clip S001C001P001R001A001: expected"):
        pyskl(tmp_path / "set.json")


# --- the made set ---------------------------------------------------------------------------------


def test_made_motion_follows_from_its_seed_and_name_alone() -> None:
    table, smaller = walkers(20, 10, frames=16), walkers(5, 10, frames=16)
    assert (
        torch.equal(table[3]["skeleton"].nan_to_num(), smaller[3]["skeleton"].nan_to_num())
        or table.columns["subject"][3] != smaller.columns["subject"][3]
    )
    again = walkers(20, 10, frames=16)
    for row in range(30):
        assert torch.equal(table[row]["skeleton"].nan_to_num(), again[row]["skeleton"].nan_to_num())
    other = walkers(20, 10, frames=16, seed=1)
    assert not torch.equal(table[0]["skeleton"].nan_to_num(), other[0]["skeleton"].nan_to_num())


def test_made_subjects_are_in_one_split_only_and_labels_balanced() -> None:
    table = walkers(200, 100, frames=4)
    subjects = {
        split: {
            who
            for who, where in zip(table.columns["subject"], table.columns["split"], strict=True)
            if where == split
        }
        for split in ("train", "test")
    }
    assert not subjects["train"] & subjects["test"]
    labels = list(table.columns["label"])
    assert {labels.count(action) for action in ACTIONS} == {30}
    assert set(walkers(8, 4, frames=4, label="style").columns["label"]) == {"neutral"}


def test_made_subjects_do_not_keep_to_some_actions() -> None:
    table = walkers(400, 10, frames=2)  # 20 people
    done: dict[str, set[str]] = {}
    for who, action in zip(table.columns["subject"], table.columns["action"], strict=True):
        done.setdefault(who, set()).add(action)
    train = [actions for who, actions in done.items() if who.startswith("train")]
    assert len(train) == 20
    assert min(len(actions) for actions in train) >= 4  # of about 20 clips each


@pytest.mark.parametrize("action", ACTIONS)
def test_made_bodies_have_bones_of_one_length_and_stand_on_the_floor(action: str) -> None:
    data = clip(action, "neutral", "somebody", action, 64, missing=0.0)
    children = [joint for joint, parent in enumerate(PARENTS) if parent >= 0]
    bones = data[:, children] - data[:, [PARENTS[joint] for joint in children]]
    length = np.linalg.norm(bones, axis=-1)
    assert length.std(axis=0).max() < 0.02  # 5 mm noise at both ends
    height = data[..., 1].max(axis=1) - data[..., 1].min(axis=1)
    assert height.min() > 0.5
    assert height.max() < 2.3
    lowest = data[..., 1].min(axis=1)
    if action not in ("jump", "run"):
        assert np.ptp(lowest) < 0.06  # the lower foot stays on the floor
    else:
        assert np.ptp(lowest) > 0.04
    assert np.array_equal(np.array(PARENTS)[1:], [parents_of(joint) for joint in range(1, 24)])


def parents_of(joint: int) -> int:
    (parent,) = [a for a, b in SMPL24.bones if b == joint]
    return parent


def test_made_labels_cannot_be_read_from_means_and_hardly_from_raw_values() -> None:
    from sklearn.linear_model import RidgeClassifierCV

    table = walkers(240, 120, frames=24)
    train = np.array([split == "train" for split in table.columns["split"]])
    data = np.stack([table[row]["skeleton"].nan_to_num().numpy() for row in range(len(table))])
    for name, most in (("action", 0.7), ("style", 0.4)):
        labels = np.array(list(table.columns[name]))
        chance = 1 / len(set(labels))
        for features, limit in (
            (data.mean(axis=(1, 2, 3)), chance + 0.2),
            (data[:, 0, 8:16].reshape(len(data), -1), most),
        ):
            probe = RidgeClassifierCV(np.logspace(-2, 4, 7)).fit(features[train], labels[train])
            assert probe.score(features[~train], labels[~train]) < limit
