"""Packing: a range of rows at a time, in worker processes, each range whole or not at all.

While it goes on, `.packing/` holds the plan and, of every range that is done, what readers found
(state, shapes, problems). A range is done when that note lies there and its shards, which were
written before, are whole. When all are, the small arrays are made of the notes, the group's
`zarr.json` last: what has none is no store yet, and packing it again goes on. Packing a finished
store again reads all its checksums and packs the ranges that are damaged.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from multimask.datasets.stores.assembly import (
    FORMAT,
    NOTES,
    PLAN,
    finish,
    is_done,
    note,
    taken_up,
)
from multimask.datasets.stores.entries import BAD, FACTS, MISSING, THERE
from multimask.datasets.stores.hierarchy import ROOT
from multimask.datasets.stores.leaves import Leaf, LeafWriter
from multimask.datasets.stores.places import PARTIAL, Place
from multimask.datasets.stores.plan import ModalityPlan, Plan
from multimask.datasets.stores.sources import Source, Value
from multimask.datasets.stores.values import Arrays, facts_text
from multimask.tokens import BadSample


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
    source: Source,
    place: Place,
    wanted: Plan,
    workers: int = 0,
    told: Callable[[int, int], None] | None = None,
) -> None:
    """Carry the plan out, or what is left of it. `told(done, of)` hears of finished ranges."""
    try:
        plan = agreed(place, wanted)
        if plan is None:
            return
        while (uneven := carried_out(source, place, plan, workers, told)) is not None:
            plan = with_ragged(place, plan, uneven)
        finish(source, place, plan)
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
    source: Source,
    place: Place,
    plan: Plan,
    workers: int,
    told: Callable[[int, int], None] | None,
) -> Uneven | None:
    """Pack all ranges that are not done. The array that turned out ragged, if one did."""
    left = [number for number in range(plan.shards) if not is_done(place, plan, number)]
    done = plan.shards - len(left)
    source.begin([plan.range(number) for number in left])
    for count, answer in enumerate(answers(Ranges(source, place, plan, left), workers), done):
        if isinstance(answer, Uneven):
            return answer
        if isinstance(answer, Failure):
            raise OSError(answer.reason)
        if told is not None:
            told(count + 1, plan.shards)
    return None


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

    source: Source
    place: Place
    plan: Plan
    numbers: list[int]
    owner: int = field(default_factory=os.getpid)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, at: int) -> Uneven | Failure | None:
        number = self.numbers[at]
        rows = self.plan.range(number)
        try:
            found = {}
            self.check_wanted()
            for modality, plan in self.plan.modalities.items():
                answer = pack_modality(self.source, self.place, self.plan, modality, plan, rows)
                if isinstance(answer, Uneven):
                    return answer
                found[modality] = answer
            self.check_wanted()
            self.place.write(note(number), [json.dumps(found).encode()])
        except OSError as error:
            return Failure(error.strerror or str(error))
        return None

    def check_wanted(self) -> None:
        """Ends a worker whose parent was killed: another may be packing by now."""
        if self.owner not in (os.getpid(), os.getppid()):
            raise SystemExit(1)


def pack_modality(
    source: Source, place: Place, whole: Plan, modality: str, plan: ModalityPlan, rows: range
) -> dict[str, Any] | Uneven:
    """Write a range's shards; what its note says: states, problems, lengths and shapes."""
    writers = {name: LeafWriter(leaf, whole.rows) for name, leaf in plan.leaves.items()}
    sides: dict[str, dict[int, tuple[int, ...]]] = {name: {} for name in plan.leaves}
    states, problems = [MISSING] * len(rows), dict[int, str]()
    for row, value in source.values(modality, plan, rows):
        try:
            arrays = as_planned(plan, value)
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


def as_planned(plan: ModalityPlan, value: Value | BadSample | OSError) -> Arrays:
    """The arrays to write, facts among them. Raises what stands in place of a value."""
    if isinstance(value, Exception):
        raise value
    record, arrays, facts = value
    if record != plan.record:
        raise BadSample(f"expected a value like {plan.record}, found {record}")
    if record is not None:
        arrays = arrays | {FACTS: np.frombuffer(facts_text(facts), np.uint8)}
    return {name: fitting(plan, name, array) for name, array in arrays.items()}


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
