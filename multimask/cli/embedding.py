"""`multimask embed`: one vector a sample, into an NPZ file or, as they come, into a store."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tqdm import tqdm

from multimask import evaluation
from multimask.checkpoints import load
from multimask.cli.data import model_table, tell_skipped
from multimask.datasets.store import pack_vectors
from multimask.datasets.table import Table
from multimask.evaluation.embeddings import evaluating
from multimask.evaluation.reading import batches, computed
from multimask.model import MaskedModel
from multimask.plugins import to_config
from multimask.tokens import BadSample, Batch

FEATURES = "features"  # the modality of a store of vectors


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write one vector a sample, with ids and labels. Into a store they are written as they come;
    run it again after a kill, and it goes on where it stopped."""

    model: Annotated[Path, "folder of a saved model"]
    data: Annotated[Path, "folder, CSV, Parquet, NPY, NPZ or store"]
    out: Annotated[
        Path, "FILE.npz with ids, features and every label column; any other name is a store"
    ] = Path("features.npz")
    batch_size: Annotated[int, "samples at a time; changes nothing but speed"] = 64
    workers: Annotated[int, "processes that read data"] = 0
    device: Annotated[str, "auto, cpu, cuda"] = "auto"
    pool: Annotated[str, "mean of the tokens, or global: the first global token"] = "mean"


def embed(flags: Embed) -> None:
    model = load(flags.model)
    table = model_table(model, flags.data)
    if flags.out.suffix == ".npz":
        into_npz(flags, model, table)
        return
    with tqdm(desc="embedding", unit="shard") as bar:

        def told(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        made = embed_to_store(
            model,
            table,
            flags.out,
            batch_size=flags.batch_size,
            workers=flags.workers,
            device=flags.device,
            pool=flags.pool,
            told=told,
        )
    problems = made.columns.get(f"{FEATURES}.problem", [])
    skipped = [(made.columns["id"][row], why) for row, why in enumerate(problems) if why]
    width = made.columns[FEATURES][0].array.shape[0] if len(made) else 0
    print(f"{len(made) - len(skipped)} vectors of {width} numbers in {flags.out}")
    tell_skipped(skipped)


def into_npz(flags: Embed, model: MaskedModel, table: Table) -> None:
    made = evaluation.embed(
        model,
        table,
        batch_size=flags.batch_size,
        workers=flags.workers,
        device=flags.device,
        pool=flags.pool,
    )
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    labels = {f"label_{name}": values.astype(str) for name, values in made.labels.items()}
    arrays = {"ids": np.array(made.ids), "features": made.features} | labels
    np.savez(flags.out, **arrays)  # pyright: ignore[reportArgumentType]
    print(f"{len(made.ids)} vectors of {made.features.shape[1]} numbers in {flags.out}")
    tell_skipped(made.skipped)


def embed_to_store(
    model: MaskedModel,
    table: Table,
    path: str | Path,
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "auto",
    pool: str = "mean",
    told: Callable[[int, int], None] | None = None,
) -> Table:
    """`multimask.embed` for sets of any size: vectors go into a store as they come.

    The store is a table: the modality "features", float32, beside ids and all columns. After a kill
    the same call goes on; with the same batch size the result is the same, byte for byte. A sample
    that cannot be read is noted, and raises when its vector is asked for.
    """
    source = FromModel(model, table, batch_size, workers, pool)
    width: Any = model.encoder.width
    digest = digest_of(model, table, pool)
    with evaluating(model, device):
        return pack_vectors(source, path, FEATURES, len(table), width, digest, told)


class FromModel:
    """A model's vectors, range by range. One loader serves all ranges; no batch spans two, so that
    a run that goes on meets the batches it would have met."""

    def __init__(
        self, model: MaskedModel, table: Table, batch_size: int, workers: int, pool: str
    ) -> None:
        self.model, self.table, self.pool = model, table, pool
        self.batch_size, self.workers = batch_size, workers
        self.reading: Iterator[Batch] = iter(())

    @property
    def columns(self) -> Mapping[str, Any]:
        modalities = self.table.readers
        return {name: c for name, c in self.table.columns.items() if name not in modalities}

    def names(self, modality: str) -> None:
        """Vectors come from no files."""

    def begin(self, ranges: Sequence[range]) -> None:
        size = self.batch_size
        groups = [
            list(rows[start : start + size])
            for rows in ranges
            for start in range(0, len(rows), size)
        ]
        tokenizers = self.model.tokenizers
        self.reading = iter(batches(self.table, tokenizers, size, self.workers, tokenizers, groups))

    def values(self, modality: str, plan: Any, rows: range) -> Iterator[tuple[int, Any]]:
        ids = self.table.columns["id"]
        row_of = {ids[row]: row for row in rows}
        for _ in range(math.ceil(len(rows) / self.batch_size)):
            read = next(self.reading)
            skipped = list(read.skipped)
            for batch, vectors in computed(read, self.pooled, skipped):
                made = vectors.float().cpu().numpy()
                for name, vector in zip(batch.sample_ids, made, strict=True):
                    yield row_of[name], (None, {"data": vector}, {})
            for name, why in skipped:
                yield row_of[name], BadSample(why)

    def pooled(self, batch: Batch) -> Any:
        return self.model.encode(batch.to(self.model.device)).pooled(self.pool)


def digest_of(model: MaskedModel, table: Table, pool: str) -> str:
    """Of weights, configuration and ids: what vectors depend on, but for what files hold."""
    digest = hashlib.sha256(json.dumps([to_config(model), pool], sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(numbers.numpy().tobytes())
    for name in table.columns["id"]:
        digest.update(f"{name}\0".encode())
    digest.update(repr(table.readers).encode())
    return digest.hexdigest()
