"""MetaImage, ITK's own format (`.mha`, `.mhd` with `.raw`): a text header, then the voxels."""

import numpy as np

from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.raw_voxels import LPS_TO_RAS, MAX_HEADER, beside, loader
from multimask.datasets.formats.voxels import Voxels
from multimask.datasets.volumes import check_affine
from multimask.tokens import BadSample

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def open_metaimage(path: AnyPath, max_voxels: int) -> Voxels:
    """Raises: BadSample for whatever is wrong with the file."""
    with opened(path, "a MetaImage volume") as file:
        fields, begin = {}, 0
        for line in file.read(MAX_HEADER).splitlines(keepends=True):
            begin += len(line)
            key, equals, value = line.decode("latin-1").partition("=")
            if not equals:
                break
            fields[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                break
    if "ElementDataFile" not in fields or "DimSize" not in fields:
        raise BadSample(
            f"{path}: expected a MetaImage header with DimSize and ElementDataFile, found "
            f"{', '.join(list(fields)[:5]) or 'other contents'}."
        )
    with decoding(path, "a MetaImage header that can be understood"):
        sizes = [int(n) for n in fields["DimSize"].split()]
        channels = int(fields.get("ElementNumberOfChannels", 1))
        offset = [float(n) for n in first(fields, "Offset", "Position", "Origin", "0 0 0").split()]
        axes = first(fields, "TransformMatrix", "Orientation", "Rotation", "1 0 0 0 1 0 0 0 1")
        spacing = [float(n) for n in first(fields, "ElementSpacing", "1 1 1").split()]
        swap = first(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "False") == "True"
        kind = TYPES.get(fields.get("ElementType", ""))
        packed = fields.get("CompressedData", "False") == "True"
        affine = np.eye(4)
        if len(sizes) == 3:
            directions = np.array([float(n) for n in axes.split()]).reshape(3, 3)
            affine[:3, :3] = directions.T * np.array(spacing)
            affine[:3, 3] = offset
    if len(sizes) != 3:
        raise BadSample(f"{path}: expected three axes, found DimSize = {fields['DimSize']}.")
    if kind is None:
        raise BadSample(f"{path}: expected numbers, found the type {fields.get('ElementType')}.")
    local = fields["ElementDataFile"] == "LOCAL"
    data = path if local else beside(path, fields["ElementDataFile"])
    dtype = np.dtype(kind).newbyteorder(">" if swap else "<")
    load = loader(
        data,
        begin if local else 0,
        dtype,
        sizes,
        channels,
        "zlib" if packed else "raw",
        max_voxels,
        path,
    )
    shape = (channels, sizes[2], sizes[1], sizes[0])
    return Voxels(shape, check_affine(LPS_TO_RAS @ affine, path), dtype.name, "MetaImage", load)


def first(fields: dict[str, str], *names_and_default: str) -> str:
    *names, default = names_and_default
    return next((fields[name] for name in names if name in fields), default)
