"""A data set as a table: a row a sample, a column a modality's files; files are read on access."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from multimask.datasets.alignment import AXES, check_groups, check_one_grid, own_seed
from multimask.datasets.cells import (
    csv_cells,
    csv_names,
    parquet_cells,
    stored_arrays,
    write_cells,
)
from multimask.datasets.columns import Column
from multimask.datasets.formats.images import ImageReader
from multimask.datasets.holdout import held_out
from multimask.datasets.listing import Names, listed_columns, unique_ids
from multimask.datasets.readers import Informed, Packed, Reader, Readers, ask, one_each, usable
from multimask.datasets.scan import folder_columns
from multimask.tokens import Sample

if TYPE_CHECKING:
    from multimask.datasets.stores.plan import How


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Samples from files or arrays, as `fit`, `embed` and curation take them.

    A sample is a dict: each modality it has, `id`, and all other columns but those with a dot,
    which say what readers reported of files ("image.width"). What a row lacks is left out. Files
    are opened by `table[i]` and `table.draw(i, generator)` only, in the process that asks.

    columns: by name, one entry a sample, None where missing; "id" holds unique strings.
    readers: one a modality; None where the column holds arrays that are used as they are.
    root: the folder that file columns are relative to.
    aligned: see `with_aligned`; None where nothing was said.
    """

    columns: Mapping[str, Column]
    readers: Mapping[str, Reader | None]
    root: str = ""
    aligned: tuple[tuple[str, ...], ...] | None = None

    @classmethod
    def open(
        cls, path: str | Path, modality: str = "image", reader: Reader | None = None
    ) -> "Table":
        """A store, a folder, or a CSV, Parquet, NPY or NPZ file. ValueError for anything else.

        `modality` names what the files of a folder or a listing, or the array of a NPY, are; NPZ
        files name theirs. For listings of several modalities see `from_csv`. A store, also one
        behind a URL such as s3://bucket/photographs.zarr, names its own and has readers; one that
        is given reads `modality`.
        """
        from multimask.datasets.store import is_store, open_store

        if is_store(path):
            return open_store(path, None if reader is None else {modality: reader})
        path = Path(path)
        suffix = path.suffix.lower()
        if path.is_dir():
            return cls.from_folder(path, modality, reader)
        if suffix == ".csv":
            return cls.from_csv(path, reader=reader, modality=modality)
        if suffix == ".parquet":
            return cls.from_parquet(path, reader=reader, modality=modality)
        if suffix in (".npy", ".npz"):
            arrays: dict[str, Any] = stored_arrays(path, modality)
            return cls.from_arrays(reader=reader, **arrays)
        found = f"a file ending in {suffix!r}" if path.exists() else "nothing there"
        raise ValueError(
            f"{path}: expected a folder or a .csv, .parquet, .npy or .npz file, found {found}."
        )

    @classmethod
    def from_folder(
        cls, path: str | Path, modality: str = "image", reader: Reader | None = None
    ) -> "Table":
        """All files of a folder that the reader knows by suffix, at any depth. None is opened.

        A `labels.csv` with a column `file` in the folder is the table, if there is one. Otherwise
        top folders are labels; or, where all of them are named train, val or test, the split, and
        the folders below labels. Hidden files are left out. The id is the path in the folder.

        Raises: ValueError for a folder that is missing or has no such file.
        """
        root, reader = Path(path), reader or ImageReader()
        listing = root / "labels.csv"
        if listing.is_file() and "file" in csv_names(listing):
            return cls.from_csv(listing, {"file": modality}, reader)
        return cls.of(folder_columns(root, modality, reader.suffixes), {modality: reader}, root)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        modalities: Names = None,
        reader: Readers = None,
        root: str | Path | None = None,
        modality: str = "image",
    ) -> "Table":
        """A CSV whose first line names the columns; a blank cell is missing.

        Args:
            modalities: the columns that hold files, by name, or as a mapping from column to
                modality. If not given: the column named as `modality`, else `file`, `path` or
                `image`, which becomes that modality.
            reader: for all modalities, or a mapping from modality to reader; else `ImageReader()`.
            root: what paths are relative to; else the CSV's folder.
            modality: what the files are, where `modalities` does not say.
        The id is the column `id`, else the path of the row's first modality.

        Raises: ValueError for a file that is no such CSV, unknown or ambiguous file columns, ids
        that occur twice, and where not one of a column's files exists. Single files that do not
        exist are found by `check`, or on reading.
        """
        path = Path(path)
        folder = path.parent if root is None else Path(root)
        cells = csv_cells(path)
        columns, names = listed_columns(path, cells, Column.from_text, modalities, folder, modality)
        return cls.of(columns, one_each(names, reader, ImageReader()), folder)

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        modalities: Names = None,
        reader: Readers = None,
        root: str | Path | None = None,
        modality: str = "image",
    ) -> "Table":
        """As `from_csv`, from a Parquet file. Needs pyarrow, the extra `parquet`."""
        path = Path(path)
        folder = path.parent if root is None else Path(root)
        cells = parquet_cells(path)
        columns, names = listed_columns(path, cells, Column.of, modalities, folder, modality)
        return cls.of(columns, one_each(names, reader, ImageReader()), folder)

    @classmethod
    def from_arrays(
        cls, *, modalities: Sequence[str] | None = None, reader: Readers = None, **columns: Any
    ) -> "Table":
        """Data in memory: `Table.from_arrays(image=pictures, label=classes, id=names)`.

        Columns are arrays, tensors or lists of one entry a sample, None where missing. Modalities
        are, if not named, those whose entries are arrays. Without a reader these are used as they
        are, as tensors; a reader that takes arrays, as `ImageReader` does, can augment them.
        """
        made = {name: Column.of(values) for name, values in columns.items()}
        names = modalities or [name for name, column in made.items() if column.holds_arrays]
        if not names or not set(names) <= set(made):
            raise ValueError(
                f"from_arrays: the modalities {list(names)} are not among the columns "
                f"{sorted(made)}; give each an array whose first axis is the samples."
            )
        return cls.of(made, one_each(names, reader, None))

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Sequence[Any]],
        readers: Mapping[str, Reader | None],
        root: str | Path = "",
    ) -> "Table":
        """A table of given columns: what the other ways of making one, and layouts, end in.

        Raises: ValueError for columns of different length, and ids that occur twice.
        """
        made = {name: Column.of(values) for name, values in columns.items()}
        made["id"] = unique_ids(made, list(readers))
        return cls(made, dict(readers), str(root))

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Table: columns must be equally long, found {lengths}.")

    def __len__(self) -> int:
        return len(self.columns["id"])

    def __getitem__(self, index: int) -> Sample:
        """One sample, read deterministically. Raises BadSample for a file that cannot be used."""
        return self._sample(index, None)

    def __repr__(self) -> str:
        others = [name for name in self.columns if name not in {"id", *self.readers}]
        return f"Table of {len(self):,} samples: {', '.join(self.readers)}" + (
            f"; with {', '.join(others)}" if others else ""
        )

    def draw(self, index: int, generator: Generator) -> Sample:
        """One sample, its readers' random augmentation drawn from the generator.

        All modalities draw the same numbers, so registered ones are cropped alike (unless
        `with_aligned` says which), and a missing modality changes nothing for the others.
        """
        return self._sample(index, int(torch.randint(2**62, (1,), generator=generator)))

    def with_columns(self, **columns: Sequence[Any]) -> "Table":
        """The table with these columns added or replaced."""
        made = {name: Column.of(values) for name, values in columns.items()}
        if "id" in made:
            made["id"] = unique_ids(made, list(self.readers))
        return replace(self, columns={**self.columns, **made})

    def with_readers(self, **readers: Reader | None) -> "Table":
        """The table with other readers: `table.with_readers(image=ImageReader(channels=1))`."""
        changed = one_each(list(self.readers), readers, None)
        return replace(self, readers={**self.readers, **{name: changed[name] for name in readers}})

    def with_aligned(self, *groups: Sequence[str]) -> "Table":
        """The table with groups of modalities that lie on each other pixel by pixel.

        Within a group random crops and flips are the same, every other modality draws its own. A
        row whose group has grids of different sizes raises BadSample when it is read: declare only
        what is on one grid. Without any group all modalities draw their own.

        Raises: ValueError for unknown modalities and one that is in two groups.
        """
        made = tuple(tuple(group) for group in groups)
        check_groups(made, list(self.readers))
        return replace(self, aligned=made)

    def where(self, **wanted: Any) -> "Table":
        """Rows whose columns equal these: `where(split="train", label=("cat", "dog"))`.

        None means missing. Names with dots go in as `where(**{"image.problem": None})`.

        Raises: ValueError for unknown columns, and where no row is left.
        """
        chosen = np.ones(len(self), bool)
        for name, value in wanted.items():
            chosen &= self._column(name).equals(value)
        if not chosen.any():
            found = {name: sorted(set(map(str, self.columns[name])))[:8] for name in wanted}
            raise ValueError(f"where: no sample has {wanted}; found (at most 8) {found}.")
        return self.select(chosen)

    def select(self, indices: Sequence[int] | np.ndarray | Tensor) -> "Table":
        """These rows, in this order: places, or one bool a row. No row may be asked for twice."""
        rows = np.arange(len(self))[np.asarray(indices) if len(indices) else []]
        if len(np.unique(rows)) != len(rows):
            row = Counter(rows.tolist()).most_common(1)[0][0]
            raise ValueError(f"select: the sample {self.columns['id'][row]!r} is chosen twice.")
        return replace(self, columns={name: c.take(rows) for name, c in self.columns.items()})

    def head(self, n: int) -> "Table":
        """The first n rows."""
        return self.select(range(min(n, len(self))))

    def split_off(
        self, share: float, seed: int = 0, by: str | None = None
    ) -> tuple["Table", "Table"]:
        """(the rest, a held-out share), decided by a hash of seed and id, not by row order.

        The column "label", if there is one, has the same proportions on both sides. `by` names a
        column (a subject, a scene) whose equal values must not be parted; then labels fall as
        they fall, and the share is met as nearly as whole groups allow.

        Raises: ValueError where one side would be empty.
        """
        groups = None if by is None else list(self._column(by))
        labels = list(self.columns["label"]) if "label" in self.columns else None
        held = held_out(list(self.columns["id"]), share, seed, labels, groups)
        return self.select(~held), self.select(held)

    def missing(self) -> dict[str, Bool[np.ndarray, " n"]]:
        """Of each modality, which samples lack it, as the columns say. No file is opened."""
        return {name: self.columns[name].missing for name in self.readers}

    def check(self, workers: int = 4, full: bool = False) -> tuple[list[tuple[str, str]], "Table"]:
        """Ask readers about every file: (id, reason) of the bad ones, and the table with reports.

        A report is a column "<modality>.<name>", "<modality>.problem" the reason or None. Headers
        only; with `full` the data are read too, which finds damage behind headers.
        """
        columns, bad = {}, []
        for modality, reader in self.readers.items():
            if reader is not None:
                files = [self.source(modality, index) for index in range(len(self))]
                reports, problems = ask(reader, files, workers, full)
                reports["problem"] = problems
                columns |= {f"{modality}.{name}": values for name, values in reports.items()}
                bad += [(row, why) for row, why in enumerate(problems) if why is not None]
        ids = self.columns["id"]
        return [(ids[row], why) for row, why in sorted(bad)], self.with_columns(**columns)

    def pack(
        self,
        path: str | Path,
        workers: int = 0,
        rows_per_shard: int | None = None,
        told: Callable[[int, int], None] | None = None,
        **hows: "How",
    ) -> "Table":
        """Write all samples into a store at a folder or URL, and open it.

        `table.pack("photographs.zarr", image="encoded", depth=Packing("arrays", "float16"))`: see
        `multimask.datasets.stores.plan.Packing`. Where nothing is said, files are packed as their
        reader says (most: "encoded") and arrays as "arrays". May be killed at any moment: the same
        call goes on where it stopped, and the result is the same, byte for byte, whatever the
        number of workers. A file that cannot be read is noted; reading that sample raises it.

        Args:
            workers: processes that read and write; 0 is this one.
            rows_per_shard: samples in a shard file; else as many as make about 64 MiB.
            told: hears (shards done, of how many).
        Raises: ValueError for packings that cannot be and where something else lies there;
        OSError where writing fails.
        """
        from multimask.datasets.store import pack_table

        return pack_table(self, path, workers, rows_per_shard, told, **hows)

    def write_csv(self, path: str | Path) -> None:
        """All columns as a listing that `open` reads, what `check` found out included; files by
        their absolute paths.

        Raises: ValueError where a column holds arrays.
        """
        arrays = [name for name, column in self.columns.items() if column.holds_arrays]
        if arrays:
            raise ValueError(f"write_csv: the column {arrays[0]!r} holds arrays, not text.")
        columns = dict(self.columns)
        for name in self.readers:
            files = [self.source(name, row) for row in range(len(self))]
            columns[name] = Column.of(
                [None if f is None else os.path.abspath(str(f)) for f in files]
            )
        write_cells(Path(path), columns)

    def _sample(self, index: int, seed: int | None) -> Sample:
        sample = {"id": self.columns["id"][index]}
        for group in self.aligned or ():
            check_one_grid(sample["id"], {name: self._sizes(name, index) for name in group})
        for modality, reader in self.readers.items():
            source = self.source(modality, index)
            if source is not None and reader is None:
                packed = isinstance(source, Packed)
                sample[modality] = source.value() if packed else torch.as_tensor(source)
            elif source is not None and reader is not None:
                own = None if seed is None else own_seed(seed, modality, self.aligned)
                generator = None if own is None else Generator().manual_seed(own)
                facts = self._reported(modality, index) if isinstance(reader, Informed) else {}
                with usable(source, reader) as given:
                    if facts and isinstance(reader, Informed):
                        sample[modality] = reader.read_known(given, facts, generator)
                    else:
                        sample[modality] = reader.read(given, generator)
        for name, column in self.columns.items():
            if name not in self.readers and "." not in name and column[index] is not None:
                sample[name] = column[index]
        return sample

    def _sizes(self, modality: str, index: int) -> dict[str, int]:
        """Of the grid of a row's file or array, by axis; nothing where there is none."""
        source, reader = self.source(modality, index), self.readers[modality]
        if source is None:
            return {}
        facts = self._reported(modality, index)
        if not facts and reader is None:
            shape = np.shape(source.value() if isinstance(source, Packed) else source)
            return dict(zip(("height", "width"), shape[-2:], strict=True)) if shape[1:] else {}
        if not facts and reader is not None:
            with usable(source, reader) as given:
                facts = reader.probe(given)
        return {axis: facts[axis] for axis in AXES if facts.get(axis) is not None}

    def _reported(self, modality: str, index: int) -> dict[str, Any]:
        """What `check` kept of a file; nothing where it was not asked or found the file bad."""
        prefix = f"{modality}."
        found = {
            name.removeprefix(prefix): column[index]
            for name, column in self.columns.items()
            if name.startswith(prefix)
        }
        if found.pop("problem", None) is not None:
            return {}
        return {name: value for name, value in found.items() if value is not None}

    def source(self, modality: str, index: int) -> Any:
        """What a row's modality is read from: a path, an array, an entry of a store, or None."""
        entry = self.columns[modality][index]
        return os.path.join(self.root, entry) if isinstance(entry, str) else entry

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            raise ValueError(f"there is no column {name!r}; there are {sorted(self.columns)}.")
        return self.columns[name]
