"""Small point files of each format, written by hand."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multimask.datasets.formats.points import PointReader

XYZ = np.random.default_rng(0).normal(size=(20, 3)).round(4)

RGB = np.random.default_rng(1).integers(0, 256, (20, 3)).astype(np.uint8)

WHOLE = PointReader(num_points=None, normalise="none")


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
