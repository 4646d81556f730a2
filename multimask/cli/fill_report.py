"""What is left of a fill: a table of every row, and a report of what was done."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multimask.checkpoints.folder import write_whole
from multimask.datasets.cells import write_cells
from multimask.datasets.table import Table
from multimask.modalities.tabular import Tabular
from multimask.model import MaskedModel

LISTING, REPORT = "table.csv", "fill.json"


@dataclass
class Filled:
    """What became of every row. files: by (row, modality) the file, its spread's and facts of it.
    cells: by (row, modality) a row's cells and their spreads. skipped: (id, reason). units,
    unknown: of each modality's files, as their writers say."""

    files: dict[tuple[int, str], tuple[Path, Path]] = field(default_factory=dict)
    cells: dict[tuple[int, str], tuple[dict[str, Any], dict[str, float]]] = field(
        default_factory=dict
    )
    facts: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, float] = field(default_factory=dict)

    def count(self, name: str) -> int:
        return sum(modality == name for _, modality in (*self.files, *self.cells))


def file_names(ids: Sequence[str]) -> dict[str, str]:
    """A file name for every id, no two alike, not even where case does not count.

    >>> file_names(["a/1.png", "a_1", "A_1"])
    {'a/1.png': 'a_1', 'a_1': 'a_1-2', 'A_1': 'A_1-3'}
    """
    made, taken = {}, set[str]()
    for name in ids:
        plain = re.sub(r"[^\w.=,-]+", "_", re.sub(r"\.\w{1,5}(\.gz)?$", "", name)).strip("._")
        stem, count = plain[:150] or "row", 1
        unique = stem
        while unique.lower() in taken:
            count += 1
            unique = f"{stem}-{count}"
        taken.add(unique.lower())
        made[name] = unique
    return made


def write_listing(out: Path, table: Table, model: MaskedModel, filled: Filled) -> None:
    """Every row: its files (sources by absolute path), which of them were filled, spreads, and why
    a row was left out. Opens as a table again; paths are relative to it."""
    columns: dict[str, list[Any]] = {"id": list(table.columns["id"])}
    extra: dict[str, list[Any]] = {}
    count = len(table)
    for name, tokenizer in model.tokenizers.items():
        if isinstance(tokenizer, Tabular):
            rows = list(table.columns[name]) if name in table.readers else [None] * count
            done = [filled.cells.get((row, name), ({}, {})) for row in range(count)]
            for column in tokenizer.columns:
                columns[column] = [
                    (rows[row] or {}).get(column, done[row][0].get(column)) for row in range(count)
                ]
                extra[f"spread.{column}"] = [spread.get(column) for _, spread in done]
            continue
        sources = [table.source(name, r) if name in table.readers else None for r in range(count)]
        files = [filled.files.get((row, name)) for row in range(count)]
        columns[name] = [
            relative(file[0], out) if file else source and os.path.abspath(str(source))
            for file, source in zip(files, sources, strict=True)
        ]
        extra[f"spread.{name}"] = [file and relative(file[1], out) for file in files]
    used = {*columns, *table.readers}
    others = {n: list(c) for n, c in table.columns.items() if n not in used and "." not in n}
    done = [[n for n in model.tokenizers if (row, n) in filled.files or (row, n) in filled.cells]
            for row in range(count)]  # fmt: skip
    why = dict(filled.skipped)
    extra["fill.modalities"] = [" ".join(names) or None for names in done]
    extra["fill.problem"] = [why.get(name) for name in columns["id"]]
    write_cells(out / LISTING, columns | others | extra)


def relative(path: Path, out: Path) -> str:
    return path.relative_to(out).as_posix()


def write_report(
    out: Path, flags: Mapping[str, Any], model: MaskedModel, table: Table, filled: Filled
) -> None:
    """What was done, in numbers: enough to do it again."""
    report = {
        "flags": {n: str(v) if isinstance(v, Path) else v for n, v in flags.items()},
        "rows": len(table),
        "filled": {name: filled.count(name) for name in model.tokenizers},
        "spread": {
            "what": "standard deviation of a token's answer over random parts of what is there",
            "draws": flags["draws"],
            "share": flags["share"],
            "unit": filled.units,
        },
        "skipped": [list(item) for item in filled.skipped],
        "files": filled.facts,
    }
    write_whole(out / REPORT, (json.dumps(report, indent=1) + "\n").encode())
