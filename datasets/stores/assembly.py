"""One group of what was packed; and, of a group, what was packed and whether it is still whole."""

import json
import math
from typing import Any

import numpy as np

from multimask.datasets.columns import Column
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
from multimask.datasets.stores.leaves import Leaf
from multimask.datasets.stores.places import PARTIAL, Place
from multimask.datasets.stores.plan import VERSION, Plan
from multimask.datasets.stores.shards import Shards
from multimask.datasets.stores.sources import Source
from multimask.tokens import BadSample

NOTES = ".packing"
PLAN = f"{NOTES}/plan.json"
FORMAT = "multimask"  # the group's attribute that says: a store


def note(number: int) -> str:
    return f"{NOTES}/{number}.json"


def finish(source: Source, place: Place, plan: Plan) -> None:
    """Make one group of the shards and notes."""
    notes = [json.loads(place.read(note(number))) for number in range(plan.shards)]
    group, files = new_group({})
    columns = dict(source.columns)
    for modality, of in plan.modalities.items():
        found = [each[modality] for each in notes]
        states = [state for each in found for state in each["states"]]
        keep(group, f"{modality}/_state", np.array(states, np.uint8))
        problems = {int(row): why for each in found for row, why in each["problems"].items()}
        if problems:
            whys = [problems.get(row) for row in range(plan.n)]
            columns[f"{modality}.problem"] = Column.of(whys)
        names = source.names(modality)
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
