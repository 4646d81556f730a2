"""Motion files: one sentence for whatever is wrong with one."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multimask.datasets.formats.skeletons import SkeletonReader
from multimask.datasets.layouts.mocap import ASF, BVH
from multimask.datasets.table import Table
from multimask.tokens import BadSample
from skeleton_files import READER, ntu_file, person, write


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
