"""Point files: every format gives the same cloud back, and whatever is wrong is said in a line."""

import csv
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from multimask import BadSample
from multimask.datasets.formats.lzf import decompressed
from multimask.datasets.formats.points import PointReader
from multimask.datasets.point_transforms import Augment
from multimask.datasets.table import Table

XYZ = np.random.default_rng(0).normal(size=(20, 3)).round(4)
RGB = np.random.default_rng(1).integers(0, 256, (20, 3)).astype(np.uint8)
WHOLE = PointReader(num_points=None, normalise="none")
COLOURED = PointReader(num_points=None, normalise="none", features=("red", "green", "blue"))


# --- writers: small files of each format, by hand -------------------------------------------------


def ply(path: Path, order: str = "<", count: int = 20, body: bool = True) -> Path:
    format = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}[order]
    head = f"ply\nformat {format} 1.0\ncomment by hand\nelement vertex {count}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz")
    head += "".join(f"property uchar {colour}\n" for colour in ("red", "green", "blue"))
    head += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    faces = ((0, 1, 2), (0, 2, 3, 4))
    if order:
        rows = np.zeros(20, dtype=[("p", f"{order}f4", 3), ("c", "u1", 3)])
        rows["p"], rows["c"] = XYZ, RGB
        data = rows.tobytes()
        data += b"".join(struct.pack(f"{order}B{len(f)}i", len(f), *f) for f in faces)
    else:
        lines = [" ".join(map(str, (*p, *c))) for p, c in zip(XYZ, RGB, strict=True)]
        lines += [" ".join(map(str, (len(f), *f))) for f in faces]
        data = "\n".join(lines).encode() + b"\n"
    path.write_bytes(head.encode() + (data if body else b""))
    return path


def pcd(path: Path, data: str, count: int = 20) -> Path:
    colours = RGB.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
    head += f"WIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {data}\n"
    points = XYZ.astype("<f4")
    if data == "ascii":
        rows = zip(XYZ, colours, strict=True)
        body = "\n".join(" ".join(map(str, (*p, c))) for p, c in rows).encode()
    elif data == "binary":
        body = b"".join(
            p.tobytes() + struct.pack("<I", c) for p, c in zip(points, colours, strict=True)
        )
    else:
        raw = points.T.tobytes() + colours.astype("<u4").tobytes()
        packed = literals(raw)
        body = struct.pack("<II", len(packed), len(raw)) + packed
    path.write_bytes(head.encode() + body)
    return path


def literals(raw: bytes) -> bytes:
    """LZF without a single repetition."""
    pieces = [raw[at : at + 32] for at in range(0, len(raw), 32)]
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


def off(path: Path, head: str = "OFF\n20 1 0") -> Path:
    rows = [" ".join(map(str, p)) for p in XYZ]
    path.write_text("\n".join([head, *rows, "3 0 1 2"]) + "\n")
    return path


def obj(path: Path) -> Path:
    rows = [f"v {' '.join(map(str, p))}" for p in XYZ]
    path.write_text("\n".join(["# by hand", *rows, "vn 0 0 1", "f 1//1 2//1 3//1", "f -1 -2 -3"]))
    return path


def las(path: Path) -> Path:
    laspy = pytest.importorskip("laspy")
    made = laspy.LasData(laspy.LasHeader(point_format=2, version="1.2"))
    made.header.scales = [1e-4] * 3
    made.x, made.y, made.z = XYZ.T
    made.red, made.green, made.blue = RGB.T.astype(np.uint16) * 257
    made.write(str(path))
    return path


def npz(path: Path) -> Path:
    np.savez_compressed(path, xyz=XYZ, other=np.zeros(3))
    return path


def hdf5(path: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=np.stack([XYZ - 5, XYZ]), compression="gzip")
        file.create_dataset("normal", data=np.stack([XYZ, XYZ]))
    return path


def saved(path: Path, array: np.ndarray = XYZ) -> Path:
    np.save(path, array)
    return path


def text(path: Path, body: str) -> Path:
    path.write_text(body)
    return path


def lines(separator: str) -> str:
    return "\n".join(separator.join(map(str, p)) for p in XYZ)


# --- every format ---------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Path], Path]] = {
    "a.ply": ply,
    "big.ply": lambda path: ply(path, ">"),
    "ascii.ply": lambda path: ply(path, ""),
    "ascii.pcd": lambda path: pcd(path, "ascii"),
    "binary.pcd": lambda path: pcd(path, "binary"),
    "packed.pcd": lambda path: pcd(path, "binary_compressed"),
    "a.off": off,
    "glued.off": lambda path: off(path, "OFF20 1 0"),
    "comment.off": lambda path: off(path, "OFF # a mesh\n# of\n\n20 1 0 # counts"),
    "a.obj": obj,
    "a.las": las,
    "a.laz": las,
    "a.npy": saved,
    "fortran.npy": lambda path: saved(path, np.asfortranarray(XYZ)),
    "a.npz": npz,
    "a.xyz": lambda path: text(path, lines(" ")),
    "a.txt": lambda path: text(path, lines(",")),
    "a.pts": lambda path: text(path, f"20\n{lines(' ')}"),
    "named.txt": lambda path: text(path, f"//X Y Z\n{lines(' ')}"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_cloud_comes_back(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    torch.testing.assert_close(
        WHOLE.read(str(path)), torch.from_numpy(XYZ).float(), atol=1e-4, rtol=0
    )
    report = WHOLE.probe(str(path))
    assert report["points"] == 20


@pytest.mark.parametrize("name", ["a.ply", "big.ply", "ascii.ply", "packed.pcd", "a.las", "a.laz"])
def test_colours_come_back_in_0_to_1(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    torch.testing.assert_close(COLOURED.read(path)[:, 3:], torch.from_numpy(RGB).float() / 255)


def test_a_cloud_of_a_file_of_many(tmp_path: Path) -> None:
    for path in (hdf5(tmp_path / "a.h5"), saved(tmp_path / "a.npy", np.stack([XYZ - 5, XYZ]))):
        torch.testing.assert_close(WHOLE.read(f"{path}#1"), torch.from_numpy(XYZ).float())
        assert WHOLE.probe(f"{path}#0")["points"] == 20
        with pytest.raises(BadSample, match=r"holds 2 clouds; name one as .*#0"):
            WHOLE.read(path)
        with pytest.raises(BadSample, match="cloud 2 was asked for, but there are 2"):
            WHOLE.read(f"{path}#2")
    normals = PointReader(None, ("nx", "ny", "nz"), normalise="none").read(f"{tmp_path}/a.h5#1")
    torch.testing.assert_close(normals[:, 3:], torch.from_numpy(XYZ).float())


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = ply(tmp_path / "in_truth_a_ply.xyz")
    assert WHOLE.read(path).shape == (20, 3)


def test_repetitions_that_reach_into_themselves() -> None:
    assert decompressed(bytes([0]) + b"a" + bytes([0b111_00000, 20, 0]), 30, "x") == b"a" * 30


# --- points and transforms ------------------------------------------------------------------------


def test_without_a_generator_a_reading_is_always_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy")
    reader = PointReader(8, augment=Augment())
    assert reader.read(path).equal(reader.read(path))
    assert not reader.read(path, Generator().manual_seed(1)).equal(reader.read(path))
    twice = [reader.read(path, Generator().manual_seed(1)) for _ in range(2)]
    assert twice[0].equal(twice[1])


def test_points_are_drawn_without_repetition(tmp_path: Path) -> None:
    drawn = PointReader(20, normalise="none").read(XYZ)
    assert {tuple(p) for p in drawn.tolist()} == {tuple(p) for p in XYZ.astype(np.float32).tolist()}


def test_a_surface_is_sampled_by_area(tmp_path: Path) -> None:
    # two triangles, one three times as large as the other
    body = "OFF\n6 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 5\n3 0 5\n0 1 5\n3 0 1 2\n3 3 4 5\n"
    path = text(tmp_path / "a.off", body)
    cloud = PointReader(400, ("nx", "ny", "nz"), normalise="none").read(path)
    low = cloud[:, 2] < 2.5
    assert abs(int(low.sum()) - 100) <= 1
    assert (cloud[low, 0] + cloud[low, 1] <= 1 + 1e-6).all()
    torch.testing.assert_close(cloud[:, 3:].abs(), torch.tensor([[0.0, 0, 1]]).expand(400, 3))
    corners = PointReader(6, surface=False, normalise="none").read(path)
    assert len(corners) == 6


def test_a_sphere_has_its_mean_at_the_origin_and_radius_one() -> None:
    cloud = PointReader(None, normalise="sphere").read(XYZ * 100 + 5000)
    torch.testing.assert_close(cloud.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(cloud.norm(dim=1).max(), torch.tensor(1.0))


def test_normals_turn_with_the_cloud() -> None:
    draw = np.random.default_rng(0)
    across = np.tile([[0.0, 0, 1]], (5, 1))
    flat = np.c_[draw.normal(size=(5, 2)), np.zeros(5)]
    augment = Augment(rotate="any", shift=0.0)
    xyz, normals = augment(flat, across, ("nx", "ny", "nz"), draw)
    np.testing.assert_allclose((xyz * normals).sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)


def test_map_coordinates_keep_their_digits(tmp_path: Path) -> None:
    far = XYZ / 100 + [637_000, 849_000, 400]
    with pytest.raises(BadSample, match="lose their digits in single precision"):
        WHOLE.read(far)
    near = PointReader(None, normalise="centre").read(far)
    wanted = torch.from_numpy(XYZ / 100 - XYZ.mean(0) / 100).float()
    torch.testing.assert_close(near, wanted, atol=1e-7, rtol=0)


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


def test_real_meshes_are_a_table(shared_data: Path) -> None:
    table = Table.from_folder(shared_data / "points/kaykit_meshes", "points", PointReader())
    bad, checked = table.check()
    assert (len(table), bad) == (189, [])
    assert all(points and points >= 8 for points in checked.columns["points.points"])
    cloud = table[0]["points"]
    assert cloud.shape == (1024, 3)


def test_real_scans_with_all_their_features(shared_data: Path) -> None:
    names = ("nx", "ny", "nz", "red", "green", "blue")
    reader = PointReader(1024, names, normalise="none")
    for path in sorted((shared_data / "points/ycb_scans").glob("*.ply")):
        cloud = reader.read(path)
        assert cloud.shape == (1024, 9)
        torch.testing.assert_close(cloud[:, 3:6].norm(dim=1), torch.ones(1024), atol=0.05, rtol=0)
        assert 0 <= cloud[:, 6:].min() <= cloud[:, 6:].max() <= 1
        assert cloud[:, :3].abs().max() < 1  # metres


def test_real_lidar_and_depth_cameras(shared_data: Path) -> None:
    pytest.importorskip("laspy")
    folder = shared_data / "points/real_scans"
    reader = PointReader(None, 1, normalise="centre")
    assert reader.read(folder / "simple.las").equal(reader.read(folder / "simple.laz"))
    counts = {"autzen_trim.laz": 110000, "milk.pcd": 12575, "lamppost.pcd": 1771}
    for name, count in counts.items():
        cloud = PointReader(None, normalise="centre").read(folder / name)
        assert cloud.shape == (count, 3)


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
