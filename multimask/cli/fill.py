"""`multimask fill`: complete what rows lack, as files beside a table that lists every row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from multimask.checkpoints import load
from multimask.cli.data import many_table, tell_skipped
from multimask.cli.fill_cells import filled_cells
from multimask.cli.fill_files import Row, Writer, writer_for
from multimask.cli.fill_report import (
    LISTING,
    REPORT,
    Filled,
    file_names,
    write_listing,
    write_report,
)
from multimask.cli.fill_windows import Pieces, cut_up, put_together
from multimask.datasets.table import Table
from multimask.ensembles import Spread, check_draws, spreads
from multimask.evaluation.embeddings import evaluating
from multimask.evaluation.reading import batches
from multimask.filling import check_names, check_restores
from multimask.modalities.tabular import Tabular
from multimask.model import MaskedModel
from multimask.tokens import Batch, Step, Tokens

NOTHING = "nothing present"


@dataclass(frozen=True, kw_only=True)
class Fill:
    """Fill in the modalities that rows lack, from those that they have, as files of the same kind,
    with how sure each token is, and a table of all rows."""

    model: Annotated[Path, "folder of a saved model of several modalities"]
    data: Annotated[Path, "CSV or Parquet with a column a modality; a blank cell is to be filled"]
    out: Annotated[Path, "new folder: table.csv, fill.json, MODALITY/ID.* and MODALITY/ID.spread.*"]
    only: Annotated[tuple[str, ...], "modalities to fill; default: all that the model can"] = ()
    draws: Annotated[int, "random parts of what is there that the spread is taken over"] = 8
    share: Annotated[float, "of what is there, in each of these parts"] = 0.5
    seed: Annotated[int, "of these parts"] = 0
    batch_size: Annotated[int, "samples at a time; changes nothing but speed"] = 16
    workers: Annotated[int, "processes that read data"] = 0
    device: Annotated[str, "auto, cpu, cuda"] = "auto"


def fill(flags: Fill) -> None:
    model = load(flags.model)
    table = many_table(flags.data, model.tokenizers)
    filled = fill_table(model, table, flags)
    rows = {row for row, _ in (*filled.files, *filled.cells)}
    by_name = ", ".join(
        f"{filled.count(name)} {name}" for name in model.tokenizers if filled.count(name)
    )
    print(f"filled {by_name or 'nothing'} in {len(rows)} of {len(table)} rows")
    nothing = [name for name, why in filled.skipped if why == NOTHING]
    if nothing:
        print(f"{len(nothing)} rows have nothing to answer from: {', '.join(nothing[:20])}")
    tell_skipped([(name, why) for name, why in filled.skipped if why != NOTHING])
    shares = [facts["covered"] for facts in filled.facts if "covered" in facts]
    if shares and np.mean(shares) < 0.99:
        print(
            f"answers cover {np.mean(shares):.0%} of their files on average, what the model's size "
            "shows of them; the rest is unknown"
        )
    print(f"table {flags.out / LISTING}, report {flags.out / REPORT}")


def fill_table(model: MaskedModel, table: Table, flags: Fill) -> Filled:
    """Fill a table's gaps with files in `flags.out`, and write the table and the report there.

    An answer is the model's from all that a row has; its spread is taken over `draws` random parts.

    Raises: ValueError for modalities that cannot be answered, a folder that holds other things, and
    an answer that would take the place of a source.
    """
    check_draws(flags.draws, flags.share)
    if flags.batch_size < 1:
        raise ValueError(f"--batch-size {flags.batch_size} must be at least 1.")
    names = answerable(model, flags.only)
    prepare(flags.out, table)
    gaps = np.any([lacking_of(model, table)[name] for name in names], axis=0)
    pieces = cut_up(table, np.flatnonzero(gaps).tolist())
    if pieces is None:
        filled = fill_rows(model, table, names, flags)
    else:
        filled = as_scenes(fill_rows(model, pieces.table, names, flags), pieces, table)
    write_listing(flags.out, table, model, filled)
    write_report(flags.out, asdict(flags), model, table, filled)
    return filled


def lacking_of(model: MaskedModel, table: Table) -> dict[str, np.ndarray]:
    """Of each of the model's modalities, which rows lack it."""
    missing = table.missing()
    return {name: missing.get(name, np.ones(len(table), bool)) for name in model.tokenizers}


def fill_rows(model: MaskedModel, table: Table, names: Sequence[str], flags: Fill) -> Filled:
    """Write the answers for these modalities of all rows that lack them."""
    lacking = lacking_of(model, table)
    filled = Filled()
    nothing = np.all(list(lacking.values()), axis=0)
    ids = list(table.columns["id"])
    filled.skipped += [(ids[row], NOTHING) for row in np.flatnonzero(nothing)]
    writers: dict[str, Writer] = {
        name: writer_for(name, model.tokenizers[name], table)
        for name in names
        if lacking[name].any() and not isinstance(model.tokenizers[name], Tabular)
    }
    filled.units = {name: writer.unit for name, writer in writers.items()}
    filled.unknown = {name: writer.unknown for name, writer in writers.items()}
    stems = file_names(ids)
    with evaluating(model, flags.device):
        for targets, batch in to_answer(model, table, names, lacking, flags):
            filled.skipped += list(batch.skipped)
            if batch.size:
                answer(model, table, targets, batch, flags, writers, stems, filled)
    return filled


def as_scenes(filled: Filled, pieces: Pieces, table: Table) -> Filled:
    """What became of windows, as what became of their scenes."""
    ids = list(table.columns["id"])
    owner = {
        name: ids[piece.row]
        for name, piece in zip(pieces.table.columns["id"], pieces.of, strict=True)
    }
    files = put_together(pieces, table, filled.files, file_names(ids), filled.unknown)
    cells = {(pieces.of[number].row, name): found for (number, name), found in filled.cells.items()}
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    for fact in filled.facts:  # of a scene those of its first window, where it begins
        key = owner[fact["id"]], fact["modality"]
        facts.setdefault(key, fact | {"id": key[0]})
    skipped = {owner[name]: why for name, why in reversed(filled.skipped)}
    return Filled(files, cells, list(facts.values()), list(skipped.items()), filled.units)


def answerable(model: MaskedModel, only: Sequence[str]) -> list[str]:
    """The modalities to fill: those asked for, which must be answerable, else all that are."""
    if only:
        check_names(only, list(model.tokenizers), "only")
        for name in only:
            check_restores(model, name)
        return list(only)
    found, refused = [], []
    for name in model.tokenizers:
        try:
            check_restores(model, name)
            found.append(name)
        except ValueError as error:
            refused.append(str(error))
    if not found:
        raise ValueError(refused[0])
    for why in refused:
        print(f"left out: {why}")
    return found


def prepare(out: Path, table: Table) -> None:
    """A folder of its own, or one that an earlier fill left."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / REPORT).exists())):
        raise ValueError(
            f"--out {out}: holds other things; name a new folder, so that nothing is overwritten."
        )
    inside = out.resolve()
    for name in table.readers:
        for row in range(len(table)):
            source = table.source(name, row)
            if isinstance(source, str) and inside in Path(source).resolve().parents:
                raise ValueError(
                    f"--out {out}: holds {source}, which is read; name a new folder, so that no "
                    "source is overwritten."
                )
    out.mkdir(parents=True, exist_ok=True)


def to_answer(
    model: MaskedModel,
    table: Table,
    names: Sequence[str],
    lacking: Mapping[str, np.ndarray],
    flags: Fill,
) -> Iterator[tuple[list[str], Batch]]:
    """Batches of rows that lack the same modalities, and which of these are to be filled."""
    matrix = np.stack([lacking[name] for name in model.tokenizers], axis=1)
    wanted = np.array([name in names for name in model.tokenizers])
    rows = np.flatnonzero((matrix & wanted).any(axis=1) & ~matrix.all(axis=1))
    groups: dict[tuple[bool, ...], list[int]] = {}
    for row in rows.tolist():
        groups.setdefault(tuple(matrix[row].tolist()), []).append(row)
    for pattern, members in groups.items():
        targets = [n for n, gone in zip(model.tokenizers, pattern, strict=True) if gone]
        size = flags.batch_size
        parts = [members[start : start + size] for start in range(0, len(members), size)]
        for batch in batches(
            table, model.tokenizers, size, flags.workers, groups=parts, ignored=model.tokenizers
        ):
            yield [name for name in targets if name in names], batch


def answer(
    model: MaskedModel,
    table: Table,
    targets: Sequence[str],
    batch: Batch,
    flags: Fill,
    writers: Mapping[str, Writer],
    stems: Mapping[str, str],
    filled: Filled,
) -> None:
    """Fill one batch in."""
    batch = batch.to(model.device)
    made = model.reconstruct(batch, step=Step(flags.seed), targets=targets)
    restored = {name: made.restored[name] for name in targets}
    spread = spreads(
        model,
        batch,
        targets,
        {name: tokens.values for name, tokens in restored.items()},
        flags.share,
        flags.draws,
        flags.seed,
    )
    place = {name: row for row, name in enumerate(table.columns["id"])}
    for at, sample_id in enumerate(batch.sample_ids):
        row = place[sample_id]
        for name in targets:
            tokens = one_row(restored[name], at)
            tokenizer = model.tokenizers[name]
            if isinstance(tokenizer, Tabular):
                filled.cells[row, name] = filled_cells(tokenizer, tokens, of_row(spread[name], at))
                continue
            folder = flags.out / name
            folder.mkdir(exist_ok=True)
            written = writers[name].write(
                folder / stems[sample_id], tokens, spread[name].std[at].cpu(), Row(table, row)
            )
            filled.files[row, name] = (written.file, written.spread)
            filled.facts.append({"id": sample_id, "modality": name} | written.facts)


def one_row(tokens: Tokens, at: int) -> Tokens:
    """The tokens of one sample, on the CPU."""
    coords = tokens.coords if len(tokens.coords) == 1 else tokens.coords[at : at + 1]
    valid = None if tokens.valid is None else tokens.valid[at : at + 1].cpu()
    values = tokens.values[at : at + 1].cpu()
    return Tokens(values, coords.cpu(), torch.arange(1), valid, tokens.grid)


def of_row(spread: Spread, at: int) -> Spread:
    return Spread(spread.std[at : at + 1].cpu(), spread.agreeing[at : at + 1].cpu())
