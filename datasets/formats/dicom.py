"""DICOM: one folder a series, or one file (a single slice, or an enhanced multi-frame object).

Slices are ordered by where they lie, never by name or instance number. Needs pydicom, the extra
`dicom`, which also brings decoders for compressed transfer syntaxes.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.raw_voxels import LPS_TO_RAS
from multimask.datasets.formats.voxels import Voxels, check_voxels
from multimask.datasets.volumes import check_affine
from multimask.tokens import BadSample

WHAT = "a DICOM slice"
EVEN = 0.02  # slice distances may differ by this share of their median


@dataclass(frozen=True)
class Slice:
    """One slice of a series: its file, the frame in it, where it lies (mm, L+ P+ S+)."""

    path: str
    frame: int
    origin: tuple[float, ...]
    axes: tuple[float, ...]  # direction along a row, then along a column
    spacing: tuple[float, float]  # between rows, between columns
    size: tuple[int, int]  # rows, columns
    slope: float
    intercept: float
    thickness: float


def is_dicom(path: AnyPath) -> bool:
    """Whether a file has DICOM's magic word."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def open_dicom(path: AnyPath, max_voxels: int, series: str | None = None) -> Voxels:
    """A series from a folder, or from one file. Raises BadSample for whatever is wrong.

    series: the SeriesInstanceUID to take where a folder holds several.
    """
    files = series_files(path) if os.path.isdir(path) else [str(path)]
    with decoding(path, "DICOM headers whose values can be read"):
        headers = one_series(path, [(file, header_of(file)) for file in files], series)
        first = headers[0][1]
        check_numbers(headers[0][0], first)
        slices = [cut for file, header in headers for cut in slices_of(file, header, max_voxels)]
        facts = {
            "modality": str(getattr(first, "Modality", "")),
            "series": str(getattr(first, "SeriesInstanceUID", "")),
            "transfer_syntax": first.file_meta.TransferSyntaxUID.name,
        }
    check_voxels(path, (len(slices), *slices[0].size), max_voxels)
    slices = ordered(path, slices)
    rows, columns = slices[0].size

    def load() -> Num[np.ndarray, "1 z y x"]:
        frames: dict[str, Num[np.ndarray, "f y x"]] = {}
        out = np.empty((1, len(slices), rows, columns), np.float32)
        for z, one in enumerate(slices):
            if one.path not in frames:
                frames = {one.path: pixels_of(one.path)}  # one file at a time is kept
            pixels = frames[one.path]
            if pixels.shape[1:] != one.size or len(pixels) <= one.frame:
                raise BadSample(f"{one.path}: expected {one.size} pixels, found {pixels.shape}.")
            out[0, z] = pixels[one.frame] * np.float32(one.slope) + np.float32(one.intercept)
        return out

    affine = check_affine(affine_of(slices), path)
    return Voxels((1, len(slices), rows, columns), affine, "float32", "DICOM", load, facts=facts)


def series_files(folder: AnyPath) -> list[str]:
    """Files of a folder that are DICOM, or say so by their name."""
    try:
        entries = [entry for entry in Path(folder).iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise BadSample(f"{folder}: expected a folder that can be listed.") from error
    files = [e for e in entries if e.is_file() and e.name.upper() != "DICOMDIR"]
    found = sorted(str(e) for e in files if e.suffix.lower() in (".dcm", ".ima") or is_dicom(e))
    if not found:
        raise BadSample(f"{folder}: expected a folder with DICOM slices, found none in it.")
    return found


def header_of(file: str) -> Any:
    pydicom = imported(file)
    with opened(file, WHAT):
        pass
    try:
        with decoding(file, WHAT):
            header = pydicom.dcmread(file, stop_before_pixels=True)
    except BadSample as error:
        if is_dicom(file):
            raise
        raise BadSample(f"{file}: expected {WHAT}, found other contents.") from error
    if not hasattr(header, "Rows") or not hasattr(header, "Columns"):
        raise BadSample(f"{file}: expected {WHAT} with Rows and Columns, found no picture in it.")
    if not hasattr(header.file_meta, "TransferSyntaxUID"):
        raise BadSample(f"{file}: expected a transfer syntax, found none in the header.")
    return header


def imported(file: object) -> Any:
    try:
        import pydicom  # an optional extra
    except ImportError as error:
        raise BadSample(
            f"{file}: reading DICOM needs pydicom; `pip install 'multimask[dicom]'` brings it."
        ) from error
    return pydicom


def one_series(
    path: AnyPath, headers: Sequence[tuple[str, Any]], series: str | None
) -> list[tuple[str, Any]]:
    """The files of one series. BadSample when a folder holds several and none was named."""
    counts = Counter(str(getattr(h, "SeriesInstanceUID", "")) for _, h in headers)
    if series is None and len(counts) > 1:
        found = ", ".join(f"{uid} ({n} files)" for uid, n in counts.most_common(4))
        raise BadSample(
            f"{path}: expected one series a folder, found {len(counts)}: {found}; name one with "
            "series=..., or sort them into folders."
        )
    wanted = next(iter(counts)) if series is None else series
    chosen = [(f, h) for f, h in headers if str(getattr(h, "SeriesInstanceUID", "")) == wanted]
    if not chosen:
        raise BadSample(f"{path}: expected the series {series}, found {', '.join(counts)}.")
    return chosen


def check_numbers(file: str, header: Any) -> None:
    samples = int(getattr(header, "SamplesPerPixel", 1))
    if samples != 1:
        raise BadSample(f"{file}: expected one number a voxel, found {samples} (a colour picture).")
    if "ModalityLUTSequence" in header:
        raise BadSample(f"{file}: expected a rescale slope, found a lookup table of intensities.")


def slices_of(file: str, header: Any, max_voxels: int) -> list[Slice]:
    """Every frame with its own geometry; shared values where a frame has none."""
    with decoding(file, "a DICOM header whose numbers can be read"):
        count = int(getattr(header, "NumberOfFrames", 1) or 1)
        check_voxels(file, (count, int(header.Rows), int(header.Columns)), max_voxels)
        frames = getattr(header, "PerFrameFunctionalGroupsSequence", None)
        shared = getattr(header, "SharedFunctionalGroupsSequence", None)
        sources = [shared[0]] if shared else []
        if frames is None:
            gap = number(header, "SpacingBetweenSlices") or number(header, "SliceThickness") or 1.0
            whole = one_slice(file, 0, [header, *sources])
            along = np.cross(whole.axes[:3], whole.axes[3:]) * gap
            origins = [np.add(whole.origin, along * frame) for frame in range(count)]
            return [
                Slice(**{**vars(whole), "frame": frame, "origin": tuple(map(float, origin))})
                for frame, origin in enumerate(origins)
            ]
        if len(frames) != count:
            raise BadSample(f"{file}: expected {count} frames as stated, found {len(frames)}.")
        return [one_slice(file, i, [group, *sources, header]) for i, group in enumerate(frames)]


def one_slice(file: str, frame: int, sources: list[Any]) -> Slice:
    """From the first source that says each thing; enhanced objects nest it one level deeper."""

    def said(name: str, within: str, default: Any = None) -> Any:
        for source in sources:
            nested = getattr(source, within, None)
            for holder in (nested[0] if nested else None, source):
                value = getattr(holder, name, None) if holder is not None else None
                if value is not None and value != "":
                    return value
        return default

    spacing = said("PixelSpacing", "PixelMeasuresSequence") or said(
        "ImagerPixelSpacing", "", [1, 1]
    )
    origin = said("ImagePositionPatient", "PlanePositionSequence", [0, 0, 0])
    axes = said("ImageOrientationPatient", "PlaneOrientationSequence", [1, 0, 0, 0, 1, 0])
    measures = "PixelMeasuresSequence"
    thickness = said("SpacingBetweenSlices", measures) or said("SliceThickness", measures, 1.0)
    return Slice(
        file,
        frame,
        tuple(float(x) for x in origin),
        tuple(float(x) for x in axes),
        (float(spacing[0]), float(spacing[1])),
        (int(said("Rows", "", 0)), int(said("Columns", "", 0))),
        float(said("RescaleSlope", "PixelValueTransformationSequence", 1.0)),
        float(said("RescaleIntercept", "PixelValueTransformationSequence", 0.0)),
        abs(float(thickness)) or 1.0,
    )


def number(header: Any, name: str) -> float:
    value = getattr(header, name, None)
    return float(value) if value not in (None, "") else 0.0


def ordered(path: AnyPath, slices: list[Slice]) -> list[Slice]:
    """Along the slices' normal. BadSample for mixed sizes or directions, gaps and doubles."""
    first = slices[0]
    for one in slices:
        if one.size != first.size or not np.allclose(one.spacing, first.spacing, atol=1e-3):
            raise BadSample(
                f"{path}: expected slices of one size and spacing, found {first.size} at "
                f"{first.spacing} mm in {name_of(first)} and {one.size} at {one.spacing} mm in "
                f"{name_of(one)}."
            )
        if not np.allclose(one.axes, first.axes, atol=1e-3):
            raise BadSample(
                f"{path}: expected parallel slices, found other directions in {name_of(one)} than "
                f"in {name_of(first)}."
            )
    if len(slices) == 1:
        return slices
    normal = np.cross(first.axes[:3], first.axes[3:])
    slices = sorted(slices, key=lambda one: float(np.dot(one.origin, normal)))
    places = np.array([np.dot(one.origin, normal) for one in slices])
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    for before, after, gap in zip(slices[:-1], slices[1:], gaps.tolist(), strict=True):
        between = f"{name_of(before)} and {name_of(after)}"
        if gap <= 1e-3 * max(usual, 1e-3) or usual <= 0:
            raise BadSample(
                f"{path}: expected one slice at a place, found two at the same, {between}."
            )
        missing = round(gap / usual) - 1
        if missing > 0 and gap > (1 + EVEN) * usual:
            raise BadSample(
                f"{path}: expected slices every {usual:.3f} mm, found {gap:.3f} mm between "
                f"{between}: {missing} missing there."
            )
        if abs(gap - usual) > max(EVEN * usual, 0.01):
            raise BadSample(
                f"{path}: expected slices every {usual:.3f} mm, found {gap:.3f} mm between "
                f"{between}."
            )
    return slices


def name_of(one: Slice) -> str:
    name = os.path.basename(one.path)
    return f"{name} (frame {one.frame + 1})" if one.frame else name


def affine_of(slices: list[Slice]) -> Float[np.ndarray, "4 4"]:
    """Voxel index (column, row, slice) to mm, R+ A+ S+."""
    first, last = slices[0], slices[-1]
    along_row, along_column = np.array(first.axes[:3]), np.array(first.axes[3:])
    step = np.cross(along_row, along_column) * first.thickness
    if len(slices) > 1:
        step = (np.array(last.origin) - np.array(first.origin)) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0] = along_row * first.spacing[1]
    affine[:3, 1] = along_column * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.origin
    return LPS_TO_RAS @ affine


def pixels_of(file: str) -> Num[np.ndarray, "f y x"]:
    """Stored numbers of all frames of a file."""
    pydicom = imported(file)
    with decoding(file, "whole DICOM pixel data"):
        dataset = pydicom.dcmread(file)
        if "PixelData" not in dataset:
            raise BadSample(f"{file}: expected pixel data, found none.")
        syntax = dataset.file_meta.TransferSyntaxUID
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames = int(getattr(dataset, "NumberOfFrames", 1) or 1)
        if not syntax.is_compressed:
            needed = rows * columns * frames * int(dataset.BitsAllocated) // 8
            if len(dataset.PixelData) < needed:
                raise BadSample(
                    f"{file}: expected {needed:,} bytes of pixels, found "
                    f"{len(dataset.PixelData):,} (cut short)."
                )
        try:
            array = dataset.pixel_array
        except RuntimeError as error:
            if "plugin" in str(error) or "handler" in str(error) or "missing" in str(error):
                raise BadSample(
                    f"{file}: expected pixels that can be unpacked, found {syntax.name}; "
                    "`pip install 'multimask[dicom]'` brings its decoder."
                ) from error
            raise
    return array.reshape(frames, rows, columns)
