"""`multimask pack`: files into a store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tqdm import tqdm

from multimask.cli.data import open_table, plain_reader, tell_skipped, tokenizer_of
from multimask.datasets.store import Packing
from multimask.datasets.table import Table


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Pack files into a store, which `--data` takes wherever it takes a folder. Run it again after
    a kill: it goes on where it stopped."""

    data: Annotated[Path, "folder, CSV, Parquet, NPY, NPZ, or a store"]
    out: Annotated[Path, "the store: a new folder, or a URL such as s3://bucket/photos.zarr"]
    kind: Annotated[str, "what the data are, by plug-in name"]
    set: Annotated[
        tuple[str, ...], "fields of the kind's tokenizer: size=96x160; none keeps native sizes"
    ] = ()
    stored: Annotated[
        Literal["auto", "encoded", "pixels", "arrays"],
        "files' own bytes, decoded pixels, or what the reader gives; auto: as the kind does",
    ] = "auto"
    dtype: Annotated[
        Literal["same", "float16", "float32"], "of floating-point numbers in the store"
    ] = "same"
    chunks: Annotated[tuple[int, ...], "shape of pieces that crops read; none: whole samples"] = ()
    level: Annotated[int | None, "of zstd compression; none reads fastest"] = None
    workers: Annotated[int, "processes that read and write"] = 2


def pack(flags: Pack) -> None:
    if flags.set:
        tokenizer = tokenizer_of(flags.kind, flags.set)
        table = open_table(flags.data, flags.kind, flags.kind, tokenizer)
    else:
        table = Table.open(flags.data, flags.kind, plain_reader(flags.kind))
    given = flags.stored != "auto" or flags.dtype != "same" or flags.chunks or flags.level
    how: dict[str, Any] = {}
    if given:
        stored = "arrays" if flags.stored == "auto" else flags.stored
        dtype = None if flags.dtype == "same" else flags.dtype
        how[flags.kind] = Packing(stored, dtype, flags.chunks or None, flags.level)
    with tqdm(desc="packing", unit="shard") as bar:

        def told(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        packed = table.pack(flags.out, workers=flags.workers, told=told, **how)
    print(f"{len(packed)} samples in {flags.out}")
    problems = packed.columns.get(f"{flags.kind}.problem", [])
    tell_skipped([(packed.columns["id"][row], p) for row, p in enumerate(problems) if p])
