"""A table packed into one zarr v3 group: few large files, read at random like raw ones.

    table.pack("photographs.zarr")
    table = Table.open("photographs.zarr")

The group's arrays, which any `zarr.open` reads (rows n, in the table's order):

    columns/label            (n,)            a column: text, numbers, or JSON ("" where missing)
    image/_state             (n,)            0 missing, 1 there, 2 could not be read when packed
    image/data               (n, 3, 224, 224)   samples of equal shape, as they are
    image/file               (n, longest)    files' own bytes, or samples that differ in shape, as
    image/file.length        (n,)            bytes, so many of them, -1 where there are none,
    image/file.shape         (n, axes)       in this shape

All chunks lie in shards and carry checksums. What is read at random is read by position, without
zarr; zarr writes and reads the small arrays.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from multimask import plugins
from multimask.datasets.columns import Column
from multimask.datasets.readers import Reader, Readers, one_each
from multimask.datasets.stores.assembly import FORMAT, PLAN, note
from multimask.datasets.stores.entries import Entries
from multimask.datasets.stores.hierarchy import ROOT, opened_group, stored_columns
from multimask.datasets.stores.leaves import Leaf, LeafReader
from multimask.datasets.stores.packer import pack
from multimask.datasets.stores.places import Folder, Place, place_of
from multimask.datasets.stores.plan import VERSION, How, ModalityPlan, Packing, Plan
from multimask.datasets.stores.sources import FromTable, Source, planned
from multimask.datasets.stores.values import ALONE
from multimask.datasets.table import Table

__all__ = ["Packing", "is_store", "open_store", "pack_table", "pack_vectors", "packings"]

VECTORS = 2048  # in a shard: what a kill loses at most


def pack_table(
    table: Table,
    path: str | Path,
    workers: int = 0,
    rows_per_shard: int | None = None,
    told: Callable[[int, int], None] | None = None,
    **hows: How,
) -> Table:
    """`Table.pack`; `told(done, of)` hears of every finished shard."""
    plan = planned(table, hows, rows_per_shard)
    pack(FromTable(table), place_of(path), plan, workers, told)
    attributes = checked(place_of(path))["plan"]["modalities"]
    kept = {name: table.readers[name] for name in attributes if attributes[name]["reader"]}
    return open_store(path, kept)


def pack_vectors(
    source: Source,
    path: str | Path,
    name: str,
    rows: int,
    width: int,
    digest: str,
    told: Callable[[int, int], None] | None = None,
) -> Table:
    """Pack one float32 vector a row, computed range by range, resumable as `Table.pack` is.

    digest: of all that the vectors depend on; a store that is there must have the same.
    """
    leaf = Leaf("float32", (width,), axes=1)
    plan = ModalityPlan(Packing("arrays"), None, {ALONE: leaf}, ALONE)
    pack(source, place_of(path), Plan(rows, VECTORS, digest, {name: plan}), told=told)
    return open_store(path)


def is_store(path: str | Path) -> bool:
    """Whether a store lies there, or one whose packing is not finished."""
    place = place_of(path)
    if isinstance(place, Folder) and not Path(path).is_dir():
        return False
    if place.has(PLAN):
        return True
    return place.has(ROOT) and FORMAT in root_of(place)


def open_store(path: str | Path, reader: Readers = None) -> Table:
    """The table that was packed. Nothing but ids, labels and other columns is read now.

    reader: for all modalities, or a mapping; else the readers that the table had. Modalities
        packed as "arrays" give what was packed and need none; a reader with `rereads = True` takes
        that once more, to crop or augment it.
    Raises: ValueError for what is no finished store, and one of a newer version; UnknownPlugin
        where a reader is wanted that no installed package brings.
    """
    place = place_of(path)
    attributes = checked(place)
    plan = Plan.from_json(attributes["plan"])
    group = opened_group(place)
    columns = stored_columns(group, attributes["columns"])
    for name, of in plan.modalities.items():
        columns[name] = Column.of(entries_of(group, place, name, of, plan, columns))
    given = reader if isinstance(reader, Mapping) else dict.fromkeys(plan.modalities, reader)
    one_each(list(plan.modalities), dict(given), None)  # refuses modalities that are not there
    readers = {name: reader_of(name, of, given.get(name)) for name, of in plan.modalities.items()}
    return Table(columns, readers, place.name)


def packings(path: str | Path) -> dict[str, Packing]:
    """The modalities of a store, and how each is packed."""
    plan = Plan.from_json(checked(place_of(path))["plan"])
    return {name: of.packing for name, of in plan.modalities.items()}


def checked(place: Place) -> dict[str, Any]:
    """What the store says of itself. Raises ValueError where it is not one that can be read."""
    name = place.name
    if not place.has(ROOT):
        if place.has(PLAN):
            plan = Plan.from_json(json.loads(place.read(PLAN)))
            done = sum(place.has(note(number)) for number in range(plan.shards))
            raise ValueError(
                f"{name}: packing was not finished ({done} of {plan.shards} shards are there); "
                "pack the same table to this path again, it goes on where it stopped."
            )
        raise ValueError(f"{name}: expected a store, found no {ROOT} there.")
    attributes = root_of(place).get(FORMAT)
    if not isinstance(attributes, dict) or "version" not in attributes:
        raise ValueError(
            f"{name}: expected a store that Table.pack made, found another zarr group."
        )
    if attributes["version"] > VERSION:
        raise ValueError(
            f"{name}: expected a store of version {VERSION} or older, found version "
            f"{attributes['version']}; a newer multimask wrote it: upgrade, or pack it again."
        )
    return attributes


def root_of(place: Place) -> dict[str, Any]:
    try:
        attributes = json.loads(place.read(ROOT))["attributes"]
        return attributes if isinstance(attributes, dict) else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{place.name}: expected a zarr v3 group, found a {ROOT} that is damaged or none."
        ) from error


def entries_of(
    group: Any, place: Place, name: str, of: ModalityPlan, plan: Plan, columns: Mapping[str, Column]
) -> Entries:
    leaves = {}
    for key, leaf in of.leaves.items():
        at = f"{name}/{key}"
        sides = ("length", "shape") if leaf.shape is None else ()
        ragged = [np.asarray(group[f"{at}.{side}"][...]) for side in sides]
        leaves[key] = LeafReader(place, at, leaf, plan.rows, *ragged)
    problems = {}
    if f"{name}.problem" in columns:
        told = columns[f"{name}.problem"]
        problems = {int(row): told[int(row)] for row in np.flatnonzero(~told.missing)}
    names = columns.get(f"{name}.file", columns["id"])
    state = np.asarray(group[f"{name}/_state"][...])
    return Entries(name, of.packing.stored, of.record, state, leaves, of.main, names, problems)


def reader_of(name: str, of: ModalityPlan, given: Reader | None) -> Reader | None:
    """The reader that was given, or that the table had when it was packed."""
    if given is None and of.reader is None:
        return None
    if given is None:
        try:
            return plugins.from_config(of.reader)
        except plugins.UnknownPlugin as error:
            raise plugins.UnknownPlugin(
                f"the modality {name!r} is packed as files for a {of.reader['name']}, of which "
                f"something is not installed here; open the store with reader={{{name!r}: ...}}."
            ) from error
    if of.packing.stored != "arrays" or getattr(given, "rereads", False):
        return given
    raise ValueError(
        f"the modality {name!r} is packed as 'arrays', which {type(given).__name__} cannot read "
        "again; open the store without a reader, or pack 'encoded'."
    )
