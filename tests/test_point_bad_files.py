"""Point files: whatever is wrong is said in a line."""

import csv
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multimask import BadSample
from multimask.datasets.formats.points import PointReader
from multimask.datasets.table import Table
from point_files import WHOLE, WRITERS, hdf5, las, off, pcd, ply, saved, text

# --- what is wrong is said ------------------------------------------------------------------------


def big_npy(path: Path, shape: tuple[int, ...]) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        file.write(bytes(240))
    return path


def big_npz(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("points.npy", big_npy(path.with_suffix(".tmp"), (10**12, 3)).read_bytes())
    return path


def big_las(path: Path) -> Path:
    data = bytearray(las(path).read_bytes())
    struct.pack_into("<I", data, 107, 4_000_000_000)
    path.write_bytes(data)
    return path


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "lying.ply": (lambda p: ply(p, count=10**12), r"claims 1,000,000,000,000 vertex rows"),
    "lying_ascii.ply": (lambda p: ply(p, "", count=10**12), "claims 1,000,000,000,000 vertex rows"),
    "cut.ply": (lambda p: ply(p, body=False), "only 0 bytes follow"),
    "lying.pcd": (lambda p: pcd(p, "binary", 10**12), "claims 1,000,000,000,000 points"),
    "lying_ascii.pcd": (lambda p: pcd(p, "ascii", 10**12), "claims 1,000,000,000,000 points"),
    "lying_packed.pcd": (
        lambda p: pcd(p, "binary_compressed", 10**12),
        r"claims 1,000,000,000,000 points",
    ),
    "lying.off": (lambda p: off(p, f"OFF\n{10**12} 1 0"), "claims 1,000,000,000,000 points"),
    "short.off": (lambda p: off(p, "OFF\n20 9 0"), "claims 20 points and 9 faces, but 21 lines"),
    "lying.npy": (lambda p: big_npy(p, (10**12, 3)), "claims 1,000,000,000,000 rows"),
    "lying.npz": (big_npz, "claims 1,000,000,000,000 rows"),
    "lying.las": (big_las, "claims 4,000,000,000 points"),
    "cut.laz": (lambda p: p.write_bytes(las(p).read_bytes()[:-60]), "damaged or cut short"),
    "cut.h5": (lambda p: p.write_bytes(hdf5(p).read_bytes()[:-600]), "damaged or cut short"),
    "pickle.npy": (lambda p: saved(p, np.array([{}], dtype=object)), "array of numbers"),
    "flat.npy": (lambda p: saved(p, np.zeros(30)), r"found shape \(30,\)"),
    "complex.npy": (lambda p: saved(p, np.zeros((9, 3), complex)), "found complex128"),
    "empty.xyz": (lambda p: p.write_bytes(b""), "found an empty file"),
    "blank.xyz": (lambda p: text(p, "\n\n"), "holds no points"),
    "picture.ply": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "begins like none"),
    "binary.xyz": (lambda p: p.write_bytes(bytes(range(256)) * 9), "found binary data"),
    "words.xyz": (lambda p: text(p, "1 2 3\n4 five 6"), "holds what is no number"),
    "ragged.xyz": (lambda p: text(p, "1 2 3\n4 5"), "found 2 and 3"),
    "narrow.txt": (lambda p: text(p, "1 2\n3 4"), "at least 3 numbers a line, found 2"),
    "count.pts": (lambda p: text(p, "5\n1 2 3\n4 5 6"), "claims 5 points, but 2 lines follow"),
    "nan.xyz": (lambda p: text(p, "0 0 0\nnan 1 2\n1 inf 0"), "2 of 3 points are NaN or infinite"),
    "face.off": (
        lambda p: text(p, "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7"),
        "a face names point 7, but there are 3 points",
    ),
    "face.obj": (lambda p: text(p, "v 0 0 0\nv 1 0 0\nf 1 2 5"), "a face names point 4"),
    "zero.obj": (lambda p: text(p, "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2"), "a face names point -1"),
    "none.obj": (lambda p: text(p, "# nothing"), "lines 'v x y z', found none"),
    "type.ply": (
        lambda p: text(p, "ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n"),
        "a line that is none: 'property quad x'",
    ),
    "byte.ply": (
        lambda p: text(
            p,
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
            "property float z\nproperty uchar red\nend_header\n0 0 0 300\n",
        ),
        "'red' holds numbers outside its type",
    ),
    "folder.ply": (lambda p: p.mkdir(), "found a folder"),
    "missing.ply": (lambda p: None, "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    write, said = BAD[name]
    path = tmp_path / name
    write(path)
    with pytest.raises(BadSample, match=said) as caught:
        WHOLE.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.ply", "packed.pcd", "binary.pcd", "a.npy", "a.npz", "a.las"])
def test_a_file_cut_anywhere_never_gives_a_wrong_cloud(name: str, tmp_path: Path) -> None:
    whole = WRITERS[name](tmp_path / name).read_bytes()
    right = WHOLE.read(tmp_path / name)
    for stop in range(1, len(whole), max(1, len(whole) // 60)):
        (tmp_path / name).write_bytes(whole[:stop])
        try:
            assert WHOLE.read(tmp_path / name).equal(right)
        except BadSample:
            continue


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        (PointReader(21), "has 20 points, but num_points=21 were asked for"),
        (PointReader(4, features=2), "expected 2 features a point, found 0"),
        (PointReader(4, features=("nx",)), "has no nx; its features are none"),
        (PointReader(4, max_points=19), "expected at most 19 points, the file states 20"),
    ],
)
def test_what_a_file_has_not_is_said(reader: PointReader, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadSample, match=said):
        reader.read(saved(tmp_path / "a.npy"))


def test_dropping_leaves_the_rest(tmp_path: Path) -> None:
    path = text(tmp_path / "a.xyz", "0 0 0\nnan 1 2\n1 inf 0\n2 2 2")
    reader = PointReader(None, normalise="none", nonfinite="drop")
    assert reader.read(path).tolist() == [[0, 0, 0], [2, 2, 2]]


def test_a_table_lists_exactly_the_damaged_files(tmp_path: Path) -> None:
    for number in range(20):
        saved(tmp_path / f"{number:02d}.npy")
    (tmp_path / "07.npy").write_bytes(b"\x93NUMPY")
    table = Table.from_folder(tmp_path, "points", PointReader(8))
    bad, checked = table.check(full=True)
    assert [name for name, _ in bad] == ["07.npy"]
    assert checked.columns["points.points"][3] == 20


# --- real files -----------------------------------------------------------------------------------


GOOD = {"one_point.npy": 1, "comments.off": 8, "whitespace.off": 8, "gps-time-nan.las": 1}

GOOD |= {"test_sample_wrong_format.ply": 2}


def test_real_bad_files_are_refused_and_odd_ones_read(shared_data: Path) -> None:
    pytest.importorskip("laspy")
    with (shared_data / "bad/EXPECTED.csv").open() as file:
        names = [row["file"] for row in csv.DictReader(file) if row["file"].startswith("points/")]
    assert len(names) == 15
    for name in names:
        path = shared_data / "bad" / name
        if path.name in GOOD:
            assert len(WHOLE.read(path)) == GOOD[path.name]
        else:
            with pytest.raises(BadSample, match=path.name):
                WHOLE.read(path)
