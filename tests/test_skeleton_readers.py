"""Motion files: every format gives the joints, the people and the seconds that it holds."""

import json
from pathlib import Path

import numpy as np
import pytest

from multimask.datasets.formats.motion import linked
from multimask.datasets.formats.skeletons import SkeletonReader
from multimask.datasets.layouts.mocap import ASF, BVH
from multimask.datasets.motion import Clip
from multimask.datasets.table import Table
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_topologies import tree
from multimask.modality import collate
from multimask.tokens import BadSample
from skeleton_files import READER, ntu_file, person, single, write

# --- NTU ------------------------------------------------------------------------------------------


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
