"""Packing: a range of rows at a time, in worker processes, each range whole or not at all.

While it goes on, `.packing/` holds the plan and, of every range that is done, what readers found
(state, shapes, problems). A range is done when that note lies there and its shards, which were
written before, are whole. When all are, the small arrays are made of the notes, the group's
`zarr.json` last: what has none is no store yet, and packing it again goes on. Packing a finished
store again reads all its checksums and packs the ranges that are damaged.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from multimask.datasets.columns import Column
from multimask.datasets.stores.entries import BAD, FACTS, MISSING, THERE
from multimask.datasets.stores.frames import CELL
from multimask.datasets.stores.hierarchy import (
    ROOT,
    declare,
    keep,
    keep_columns,
    new_group,
    opened_group,
    stored_columns,
    written,
)
from multimask.datasets.stores.leaves import Leaf, LeafWriter
from multimask.datasets.stores.places import PARTIAL, Place
from multimask.datasets.stores.plan import VERSION, How, ModalityPlan, Plan, planned, value_of
from multimask.datasets.stores.shards import Shards
from multimask.datasets.stores.values import facts_text
from multimask.tokens import BadSample

NOTES = ".packing"
PLAN = f"{NOTES}/plan.json"
FORMAT = "multimask"  # the group's attribute that says: a store


@dataclass(frozen=True)
class Uneven:
    """An array turned out to differ in shape between samples."""

    modality: str
    leaf: str


@dataclass(frozen=True)
class Failure:
    """Writing came to an end; the reason in words."""

    reason: str


def pack(
    table: Any,
    place: Place,
    hows: dict[str, How],
    workers: int = 0,
    rows_per_shard: int | None = None,
    told: Callable[[int, int], None] | None = None,
) -> None:
    """See `Table.pack`. `told(done, of)` hears of every finished range."""
    wanted = planned(table, hows, rows_per_shard)
    try:
        plan = agreed(place, wanted)
        if plan is None:
            return
        while (uneven := carried_out(table, place, plan, workers, told)) is not None:
            plan = with_ragged(place, plan, uneven)
        finish(table, place, plan)
    except OSError as error:
        raise OSError(
            f"pack: {place.name}: writing failed ({error.strerror or error}). What is written "
            "stays: put that right and pack again, it goes on from there."
        ) from error


def agreed(place: Place, wanted: Plan) -> Plan | None:
    """The plan to go on with: that of an unfinished or damaged store of the same data, else the
    one wanted. None where the same store is there already, and whole.

    Raises: ValueError where something else is.
    """
    if place.has(ROOT):
        there = json.loads(place.read(ROOT)).get("attributes", {}).get(FORMAT, {})
        if there.get("plan", {}).get("digest") == wanted.digest:
            return taken_up(place, Plan.from_json(there["plan"]))
        raise ValueError(
            f"pack: {place.name}: expected nothing there, or this table packed alike, found "
            "another store or zarr group; choose another path, or delete it."
        )
    if place.has(PLAN):
        there = Plan.from_json(json.loads(place.read(PLAN)))
        if there.digest == wanted.digest:
            return there
        raise ValueError(
            f"pack: {place.name}: expected an unfinished store of this table packed alike, found "
            "one of other samples, readers or packings; choose another path, or delete it."
        )
    if others := [key for key in place.files() if not key.endswith(PARTIAL)]:
        raise ValueError(
            f"pack: {place.name}: expected an empty or new folder, found {others[0]} in it."
        )
    place.write(PLAN, [json.dumps(wanted.to_json()).encode()])
    return wanted


def carried_out(
    table: Any,
    place: Place,
    plan: Plan,
    workers: int,
    told: Callable[[int, int], None] | None,
) -> Uneven | None:
    """Pack all ranges that are not done. The array that turned out ragged, if one did."""
    left = [number for number in range(plan.shards) if not is_done(place, plan, number)]
    done = plan.shards - len(left)
    for count, answer in enumerate(answers(Ranges(table, place, plan, left), workers), done):
        if isinstance(answer, Uneven):
            return answer
        if isinstance(answer, Failure):
            raise OSError(answer.reason)
        if told is not None:
            told(count + 1, plan.shards)
    return None


def is_done(place: Place, plan: Plan, number: int) -> bool:
    if not place.has(note(number)):
        return False
    return is_whole(place, plan, number, json.loads(place.read(note(number))))


def is_whole(
    place: Place, plan: Plan, number: int, found: dict[str, Any], deep: bool = False
) -> bool:
    """Whether the shards of a range lie there with whole indexes; if `deep`, whole chunks."""
    for modality, of in plan.modalities.items():
        for name, leaf in of.leaves.items():
            slots = plan.rows * leaf.slots
            shapes = found[modality]["shapes"].get(name, {}).values()
            sizes = (math.prod(shape) * np.dtype(leaf.dtype).itemsize for shape in shapes)
            cells = max((math.ceil(size / CELL) for size in sizes), default=1)
            count = 1 if leaf.shape is not None else max(1, math.ceil(cells / leaf.cells))
            shards = Shards(place, f"{modality}/{name}", slots)
            for file in range(count):
                shard = leaf.file(file, number * plan.rows, plan.rows)
                try:
                    shards.index(shard)
                    for slot in range(slots if deep else 0):
                        shards.chunk(shard, slot)
                except BadSample:
                    return False
    return True


def taken_up(place: Place, plan: Plan) -> Plan | None:
    """The plan of a finished store, as unfinished again in its damaged ranges; None if all are
    whole."""
    group = opened_group(place)
    columns = stored_columns(group, json.loads(place.read(ROOT))["attributes"][FORMAT]["columns"])
    notes = [note_of(group, columns, plan, number) for number in range(plan.shards)]
    good = [is_whole(place, plan, number, found, deep=True) for number, found in enumerate(notes)]
    if all(good):
        return None
    place.write(PLAN, [json.dumps(plan.to_json()).encode()])
    for number in np.flatnonzero(good).tolist():
        place.write(note(number), [json.dumps(notes[number]).encode()])
    place.remove(ROOT)
    return plan


def note_of(
    group: Any, columns: dict[str, Column], plan: Plan, number: int
) -> dict[str, dict[str, Any]]:
    """What was noted of a range, from the finished store."""
    first = number * plan.rows
    rows = range(first, min(first + plan.rows, plan.n))
    made = {}
    for modality, of in plan.modalities.items():
        told = columns.get(f"{modality}.problem", [None] * plan.n)
        shapes: dict[str, dict[int, list[int]]] = {}
        for name in (name for name, leaf in of.leaves.items() if leaf.shape is None):
            sides = np.asarray(group[f"{modality}/{name}.shape"][rows.start : rows.stop]).tolist()
            there = {row: side for row, side in zip(rows, sides, strict=True) if side[:1] != [-1]}
            if there:
                shapes[name] = there
        states = np.asarray(group[f"{modality}/_state"][rows.start : rows.stop]).tolist()
        problems = {row: told[row] for row in rows if told[row] is not None}
        made[modality] = {"states": states, "problems": problems, "shapes": shapes}
    return made


def answers(ranges: "Ranges", workers: int) -> Iterator[Any]:
    """In this process, or in workers that end with it."""
    if workers == 0:
        yield from (ranges[at] for at in range(len(ranges)))
    elif len(ranges):
        yield from DataLoader(
            ranges, batch_size=None, num_workers=min(workers, len(ranges)), collate_fn=same
        )


def same(answer: Any) -> Any:
    return answer


@dataclass(frozen=True, eq=False)
class Ranges(Dataset[Any]):
    """Packs the range that it is asked for."""

    table: Any
    place: Place
    plan: Plan
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, at: int) -> Uneven | Failure | None:
        number = self.numbers[at]
        first = number * self.plan.rows
        rows = range(first, min(first + self.plan.rows, self.plan.n))
        try:
            found = {}
            for modality, plan in self.plan.modalities.items():
                answer = pack_modality(self.table, self.place, self.plan, modality, plan, rows)
                if isinstance(answer, Uneven):
                    return answer
                found[modality] = answer
            self.place.write(note(number), [json.dumps(found).encode()])
        except OSError as error:
            return Failure(error.strerror or str(error))
        return None


def pack_modality(
    table: Any, place: Place, whole: Plan, modality: str, plan: ModalityPlan, rows: range
) -> dict[str, Any] | Uneven:
    """Write a range's shards; what its note says: states, problems, lengths and shapes."""
    writers = {name: LeafWriter(leaf, whole.rows) for name, leaf in plan.leaves.items()}
    sides: dict[str, dict[int, tuple[int, ...]]] = {name: {} for name in plan.leaves}
    states, problems = [MISSING] * len(rows), dict[int, str]()
    gone = table.columns[modality].missing
    for row in rows:
        if gone[row]:
            continue
        try:
            record, arrays, facts = value_of(table, modality, row, plan.packing)
            if record is not None:
                arrays = arrays | {FACTS: np.frombuffer(facts_text(facts), np.uint8)}
            arrays = {name: fitting(plan, name, array) for name, array in arrays.items()}
            if record != plan.record:
                raise BadSample(f"expected a value like {plan.record}, found {record}")
        except (BadSample, OSError) as error:
            states[row - rows.start], problems[row] = BAD, reason(error)
            continue
        for name, array in arrays.items():
            shape = plan.leaves[name].shape
            if shape is not None and array.shape != shape:
                return Uneven(modality, name)
        for name, array in arrays.items():
            writers[name].add(row, array)
            if plan.leaves[name].shape is None:
                sides[name][row] = array.shape
        states[row - rows.start] = THERE
    for name, writer in writers.items():
        writer.write(place, f"{modality}/{name}", rows.start)
    return {
        "states": states,
        "problems": problems,
        "shapes": {name: shapes for name, shapes in sides.items() if shapes},
    }


def reason(error: BadSample | OSError) -> str:
    if isinstance(error, BadSample) or error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror}"


def fitting(plan: ModalityPlan, name: str, array: np.ndarray) -> np.ndarray:
    """The array in the stored numbers.

    Raises: BadSample for one that the store was not laid out for, or that would overflow.
    """
    leaf: Leaf | None = plan.leaves.get(name)
    if leaf is None or array.dtype.name != (leaf.was or leaf.dtype) or array.ndim != leaf.axes:
        expected = "none" if leaf is None else f"{leaf.axes} sides of {leaf.was or leaf.dtype}"
        raise BadSample(
            f"expected {name!r} to be as in the first samples ({expected}), found {array.ndim} "
            f"sides of {array.dtype.name}; give all samples one number type and rank"
        )
    if leaf.was is None:
        return array
    with np.errstate(over="ignore"):
        stored = array.astype(leaf.dtype)
    if np.isinf(stored).any() and not np.isinf(array).any():
        raise BadSample(f"expected numbers that {leaf.dtype} can hold, found {abs(array).max():g}")
    return stored


def with_ragged(place: Place, plan: Plan, uneven: Uneven) -> Plan:
    """Forget what is packed of the modality, and lay its array out for any shape."""
    old = plan.modalities[uneven.modality]
    changed = {**plan.modalities, uneven.modality: old.with_ragged(uneven.leaf)}
    for key in place.files(NOTES):
        if key != PLAN:
            place.remove(key)
    place.clear(uneven.modality)
    made = replace(plan, modalities=changed)
    place.write(PLAN, [json.dumps(made.to_json()).encode()])
    return made


def finish(table: Any, place: Place, plan: Plan) -> None:
    """Make one group of the shards and notes."""
    notes = [json.loads(place.read(note(number))) for number in range(plan.shards)]
    group, files = new_group({})
    columns = {name: c for name, c in table.columns.items() if name not in plan.modalities}
    for modality, of in plan.modalities.items():
        found = [each[modality] for each in notes]
        states = [state for each in found for state in each["states"]]
        keep(group, f"{modality}/_state", np.array(states, np.uint8))
        problems = {int(row): why for each in found for row, why in each["problems"].items()}
        if problems:
            whys = [problems.get(row) for row in range(plan.n)]
            columns[f"{modality}.problem"] = Column.of(whys)
        names = names_of(table, modality)
        if names is not None:
            columns[f"{modality}.file"] = names
        for name, leaf in of.leaves.items():
            longest = 1
            if leaf.shape is None:
                shapes = {
                    int(r): s for each in found for r, s in each["shapes"].get(name, {}).items()
                }
                longest = keep_sides(group, f"{modality}/{name}", leaf, shapes, plan.n)
            declare(group, f"{modality}/{name}", leaf, plan.n, plan.rows, longest)
    hows = keep_columns(group, columns)
    attributes = {"version": VERSION, "plan": plan.to_json(), "columns": hows}
    group.update_attributes({FORMAT: attributes})
    written(files, place)
    for key in place.files():
        if key.endswith(PARTIAL):
            place.remove(key)
    place.clear(NOTES)


def keep_sides(group: Any, key: str, leaf: Leaf, found: dict[int, list[int]], n: int) -> int:
    """Lengths in bytes and shapes of a ragged array, -1 where a row has none; the longest."""
    lengths, shapes = np.full(n, -1), np.full((n, leaf.axes), -1)
    for row, shape in found.items():
        shapes[row] = shape
        lengths[row] = np.prod(shape, dtype=int) * np.dtype(leaf.dtype).itemsize
    keep(group, f"{key}.length", lengths)
    keep(group, f"{key}.shape", shapes)
    return int(lengths.max(initial=1))


def names_of(table: Any, modality: str) -> Column | None:
    """The paths of files, as the table had them; None for arrays."""
    if f"{modality}.file" in table.columns:  # of a store that is packed again
        return table.columns[f"{modality}.file"]
    column = table.columns[modality]
    values = column.values
    texts = isinstance(values, np.ndarray) and values.dtype.kind in "TO"
    if not texts or not any(isinstance(entry, str) for entry in column):
        return None
    return Column.of([entry if isinstance(entry, str) else None for entry in column])


def note(number: int) -> str:
    return f"{NOTES}/{number}.json"
