"""NRRD (`.nrrd`, `.nhdr` with a data file beside it): a text header, then the voxels."""

import numpy as np

from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.raw_voxels import MAX_HEADER, beside, loader
from multimask.datasets.formats.voxels import Voxels
from multimask.datasets.volumes import check_affine
from multimask.tokens import BadSample

TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
SPACES = {  # signs that lead to R+ A+ S+
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
}


def open_nrrd(path: AnyPath, max_voxels: int) -> Voxels:
    """Raises: BadSample for whatever is wrong with the file."""
    with opened(path, "a NRRD volume") as file:
        head = file.read(MAX_HEADER)
    if not head.startswith(b"NRRD000"):
        raise BadSample(f"{path}: expected a NRRD volume, found other contents.")
    end, gap = min(
        ((head.find(blank), len(blank)) for blank in (b"\n\n", b"\r\n\r\n") if blank in head),
        default=(len(head), 0),
    )
    fields = {}
    for line in head[:end].decode("latin-1").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            fields[key.strip().lower()] = value.lstrip("=").strip()
    lacking = [key for key in ("type", "sizes", "encoding") if key not in fields]
    if lacking:
        raise BadSample(f"{path}: expected a NRRD header with {', '.join(lacking)}, found none.")
    with decoding(path, "a NRRD header that can be understood"):
        sizes = [int(n) for n in fields["sizes"].split()]
        kind = TYPES.get(fields["type"].lower())
        directions = vectors(fields.get("space directions", ""))
        origin = vectors(fields.get("space origin", "(0,0,0)"))[0] or [0.0, 0.0, 0.0]
        spacings = [float(n) for n in fields.get("spacings", "").split()]
    leading = len(sizes) == 4 and (not directions or directions[0] is None)
    if len(sizes) != 3 and not leading:
        raise BadSample(f"{path}: expected three axes, or channels and three, found sizes {sizes}.")
    if kind is None:
        raise BadSample(f"{path}: expected numbers, found the type {fields['type']!r}.")
    signs = SPACES.get(fields.get("space", "lps").lower())
    if signs is None:
        raise BadSample(f"{path}: the space {fields['space']!r} is unknown; expected LPS or RAS.")
    channels, spatial = (sizes[0], sizes[1:]) if leading else (1, sizes)
    affine = np.eye(4)
    spatial_directions = directions[-3:]
    if len(spatial_directions) == 3 and all(spatial_directions):
        affine[:3, :3] = np.array(spatial_directions, np.float64).T
    elif spacings and len(spacings) >= 3:
        affine[:3, :3] = np.diag(spacings[-3:])
    affine[:3, 3] = origin
    affine = np.diag([*map(float, signs), 1.0]) @ affine
    name = fields.get("data file", fields.get("datafile"))
    data, begin = (beside(path, name), 0) if name else (path, end + gap)
    big = fields.get("endian", "little").lower() == "big"
    dtype = np.dtype(kind).newbyteorder(">" if big else "<")
    coding = {"gz": "gzip", "bz2": "bzip2", "txt": "ascii", "text": "ascii"}
    encoding = coding.get(fields["encoding"].lower(), fields["encoding"].lower())
    if encoding not in ("raw", "gzip", "bzip2", "ascii"):
        raise BadSample(f"{path}: expected raw, gzip, bzip2 or text, found {encoding!r}.")
    load = loader(data, begin, dtype, spatial, channels, encoding, max_voxels, path)
    shape = (channels, spatial[2], spatial[1], spatial[0])
    return Voxels(shape, check_affine(affine, path), dtype.name, "NRRD", load)


def vectors(text: str) -> list[list[float] | None]:
    """`none (1,0,0) (0,1,0)` as lists."""
    words = text.replace(", ", ",").split()
    return [
        None if word == "none" else [float(n) for n in word.strip("()").split(",")]
        for word in words
    ]
