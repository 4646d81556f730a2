"""Ten families of objects as meshes of boxes, tubes, plates and turned profiles, y up.

Proportions are drawn so that families overlap: a stool is a small table, a mug a short bottle with
a handle.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

Mesh = tuple[Float[np.ndarray, "_ 3"], Int[np.ndarray, "_ 3"]]
Draw = np.random.Generator
Point = Sequence[float | int]
SIDES = 14  # of a round part


def box(middle: Point, size: Point) -> Mesh:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners * np.array(size) + np.array(middle), split(quads)


def tube(a: Point, b: Point, start: float, end: float | None = None) -> Mesh:
    """A round bar from a to b, closed at both ends; `end` is its radius at b."""
    low, high = np.array(a, dtype=float), np.array(b, dtype=float)
    along = (high - low) / max(float(np.linalg.norm(high - low)), 1e-9)
    side = np.cross(along, [1.0, 0, 0] if abs(along[0]) < 0.9 else [0, 1.0, 0])
    side /= np.linalg.norm(side)
    angle = np.linspace(0, 2 * np.pi, SIDES, endpoint=False)[:, None]
    ring = np.cos(angle) * side + np.sin(angle) * np.cross(along, side)
    rings = (low + start * ring, high + (start if end is None else end) * ring)
    return bands([low[None].repeat(SIDES, 0), *rings, high[None].repeat(SIDES, 0)])


def turned(profile: Sequence[tuple[float | int, float | int]]) -> Mesh:
    """What a lathe makes of (radius, height) pairs, about the upright axis."""
    angle = np.linspace(0, 2 * np.pi, SIDES, endpoint=False)
    around = np.stack((np.cos(angle), np.zeros(SIDES), np.sin(angle)), axis=1)
    return bands([r * around + [0, y, 0] for r, y in profile])


def sheet(a: Point, b: Point, c: Point, d: Point) -> Mesh:
    """A plate without thickness, its corners in order."""
    return np.array([a, b, c, d], dtype=float), split([(0, 1, 2, 3)])


def bands(rings: Sequence[np.ndarray]) -> Mesh:
    quads = []
    for at in range(len(rings) - 1):
        one, other = at * SIDES, (at + 1) * SIDES
        for i in range(SIDES):
            j = (i + 1) % SIDES
            quads.append((one + i, one + j, other + j, other + i))
    return np.concatenate(rings), split(quads)


def split(quads: Sequence[tuple[int, int, int, int]]) -> Int[np.ndarray, "f 3"]:
    return np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])


def merged(parts: Sequence[Mesh]) -> Mesh:
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    faces = [faces + start for (_, faces), start in zip(parts, starts[:-1], strict=True)]
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces)


def legs(wide: float, deep: float, high: float, thick: float, splay: float = 0.0) -> list[Mesh]:
    return [
        tube((x * wide * (1 + splay), 0, z * deep * (1 + splay)), (x * wide, high, z * deep), thick)
        for x in (-0.5, 0.5)
        for z in (-0.5, 0.5)
    ]


def chair(draw: Draw) -> list[Mesh]:
    wide, deep, high = draw.uniform(0.4, 0.6), draw.uniform(0.4, 0.55), draw.uniform(0.35, 0.6)
    back = draw.uniform(0.15, 0.6)  # a low back makes it nearly a stool
    made = legs(wide * 0.9, deep * 0.9, high, draw.uniform(0.015, 0.035), draw.uniform(0, 0.2))
    made.append(box((0, high, 0), (wide, draw.uniform(0.03, 0.08), deep)))
    lean = draw.uniform(0, 0.15)
    if draw.random() < 0.5:
        top = high + back
        made.append(box((0, high + back / 2, -deep / 2 - lean / 2), (wide, back, 0.04)))
    else:  # posts and a rail
        top = high + back
        made += [
            tube((x * wide, high, -deep / 2), (x * wide, top, -deep / 2 - lean), 0.02)
            for x in (-0.45, 0.45)
        ]
        made.append(box((0, top - 0.05, -deep / 2 - lean), (wide, 0.1, 0.03)))
    if draw.random() < 0.3:
        made += [box((x * wide, high + 0.2, 0), (0.04, 0.04, deep * 0.9)) for x in (-0.5, 0.5)]
    return made


def table(draw: Draw) -> list[Mesh]:
    high = draw.uniform(0.4, 0.8)  # low and small: a stool
    wide, deep = draw.uniform(0.4, 1.3), draw.uniform(0.4, 0.8)
    thick = draw.uniform(0.03, 0.08)
    if draw.random() < 0.35:  # round, one foot
        radius = wide / 2
        top = [(0, high), (radius, high), (radius, high + thick), (0, high + thick)]
        foot = turned([(0, 0), (radius * 0.6, 0), (radius * 0.5, 0.04), (0.04, 0.08)])
        return [turned(top), tube((0, 0.04, 0), (0, high, 0), 0.04), foot]
    made = legs(wide * 0.9, deep * 0.9, high, draw.uniform(0.015, 0.045), draw.uniform(0, 0.2))
    made.append(box((0, high, 0), (wide, thick, deep)))
    if draw.random() < 0.3:
        made.append(box((0, high * 0.35, 0), (wide * 0.85, 0.03, deep * 0.85)))
    return made


def lamp(draw: Draw) -> list[Mesh]:
    high, foot = draw.uniform(0.5, 1.4), draw.uniform(0.12, 0.3)
    low, top = draw.uniform(0.14, 0.32), draw.uniform(0.06, 0.2)
    tall = draw.uniform(0.15, 0.4)
    return [
        turned([(0, 0), (foot, 0), (foot * 0.9, 0.04), (0.02, 0.07)]),
        tube((0, 0.03, 0), (0, high, 0), draw.uniform(0.012, 0.04)),
        turned([(low, high - tall / 2), (top, high + tall / 2)]),
    ]


def shelf(draw: Draw) -> list[Mesh]:
    wide, high, deep = draw.uniform(0.5, 1.1), draw.uniform(0.5, 1.6), draw.uniform(0.2, 0.5)
    boards = int(draw.integers(2, 6))
    made = [box((0, high * i / (boards - 1), 0), (wide, 0.03, deep)) for i in range(boards)]
    if draw.random() < 0.5:
        made += [box((x * wide, high / 2, 0), (0.03, high, deep)) for x in (-0.5, 0.5)]
    else:  # open, on posts: with two boards nearly a table
        made += legs(wide * 0.95, deep * 0.95, high, 0.02)
    if draw.random() < 0.5:
        made.append(box((0, high / 2, -deep / 2), (wide, high, 0.02)))
    return made


def cup(draw: Draw) -> list[Mesh]:
    radius, high = draw.uniform(0.25, 0.45), draw.uniform(0.4, 1.1)
    foot = radius * draw.uniform(0.6, 1.0)
    wall = 0.03
    profile = [(0, 0), (foot, 0), (radius, high), (radius - wall, high), (foot - wall, wall)]
    made = [turned([*profile, (0, wall)])]
    if draw.random() < 0.7:  # a handle; without one it is a beaker
        reach, grip = draw.uniform(0.12, 0.3), draw.uniform(0.25, 0.4) * high
        at = [0.5 * high + grip * np.cos(a) for a in np.linspace(0, np.pi, 6)]
        out = [radius * 0.9 + reach * np.sin(a) for a in np.linspace(0, np.pi, 6)]
        made += [tube((out[i], at[i], 0), (out[i + 1], at[i + 1], 0), 0.035) for i in range(5)]
    return made


def bottle(draw: Draw) -> list[Mesh]:
    radius, high = draw.uniform(0.18, 0.4), draw.uniform(0.6, 1.3)
    neck, shoulder = radius * draw.uniform(0.25, 0.8), high * draw.uniform(0.45, 0.8)
    bend = shoulder + (high - shoulder) * draw.uniform(0.2, 0.6)
    profile = [(0, 0), (radius, 0), (radius, shoulder), (neck, bend), (neck, high), (0, high)]
    made = [turned(profile)]
    if draw.random() < 0.25:  # a jug
        made.append(tube((neck, high * 0.9, 0), (radius * 1.5, shoulder * 0.9, 0), 0.03))
        made.append(tube((radius * 1.5, shoulder * 0.9, 0), (radius, shoulder * 0.5, 0), 0.03))
    return made


def aeroplane(draw: Draw) -> list[Mesh]:
    long, radius = draw.uniform(0.9, 1.4), draw.uniform(0.06, 0.14)
    span, chord = draw.uniform(0.4, 0.8), draw.uniform(0.15, 0.35)
    sweep, at, up = draw.uniform(0, 0.4), draw.uniform(-0.1, 0.2), draw.uniform(0, 0.15)
    tail = draw.uniform(0.12, 0.3)
    body = [(long / 2, 0.3), (long * 0.35, 1), (-long * 0.3, 1), (-long / 2, 0.25)]
    made = [tube((x, 0, 0), (y, 0, 0), radius * r, radius * s) for (x, r), (y, s) in pairwise(body)]
    for side in (-1, 1):
        made.append(
            sheet(
                (at + chord / 2, 0, side * radius),
                (at - chord / 2, 0, side * radius),
                (at - chord / 2 - sweep * 0.8, up, side * span),
                (at - sweep, up, side * span),
            )
        )
        end = -long / 2
        made.append(
            sheet(
                (end + 0.2, 0, 0),
                (end, 0, 0),
                (end - 0.05, 0, side * tail),
                (end + 0.05, 0, side * tail),
            )
        )
    made.append(
        sheet(
            (-long / 2 + 0.2, 0, 0),
            (-long / 2, 0, 0),
            (-long / 2 - 0.05, tail, 0),
            (-long / 2 + 0.05, tail, 0),
        )
    )
    return made


def car(draw: Draw) -> list[Mesh]:
    long, wide, high = draw.uniform(0.9, 1.4), draw.uniform(0.45, 0.6), draw.uniform(0.2, 0.4)
    wheel, cabin = draw.uniform(0.09, 0.16), draw.uniform(0.3, 0.95)  # a long cabin: a van
    made = [box((0, wheel + high / 2, 0), (long, high, wide))]
    top = draw.uniform(0.15, 0.35)
    shift = (1 - cabin) * long * draw.uniform(-0.4, 0.3)
    made.append(box((shift, wheel + high + top / 2, 0), (long * cabin, top, wide * 0.9)))
    made += [
        tube((x * long, wheel, z * wide * 0.4), (x * long, wheel, z * wide * 0.55), wheel)
        for x in (-0.32, 0.32)
        for z in (-1, 1)
    ]
    return made


def tree(draw: Draw) -> list[Mesh]:
    trunk, thick = draw.uniform(0.2, 0.8), draw.uniform(0.03, 0.08)
    radius, tall = draw.uniform(0.2, 0.5), draw.uniform(0.4, 0.9)
    made = [tube((0, 0, 0), (0, trunk + 0.1, 0), thick, thick * 0.7)]
    if draw.random() < 0.5:  # a conifer; one storey on a thin trunk is nearly a lamp
        storeys = int(draw.integers(1, 4))
        for i in range(storeys):
            low = trunk + tall * i / storeys * 0.8
            wide = radius * (1 - 0.25 * i)
            made.append(turned([(0, low), (wide, low), (0, low + tall / storeys * 1.2)]))
        return made
    angle = np.linspace(-np.pi / 2, np.pi / 2, 7)
    ball = [(radius * np.cos(a), trunk + tall / 2 * (1 + np.sin(a))) for a in angle]
    return [*made, turned(ball)]


def tent(draw: Draw) -> list[Mesh]:
    wide, long, high = draw.uniform(0.6, 1.1), draw.uniform(0.6, 1.4), draw.uniform(0.4, 0.9)
    if draw.random() < 0.3:  # round: a tipi
        return [turned([(0, 0), (wide / 2, 0), (0, high * 1.3)])]
    ridge = long * draw.uniform(0.3, 1.0) / 2  # a short ridge: a pyramid
    x, z = wide / 2, long / 2
    sides = [
        sheet((s * x, 0, -z), (s * x, 0, z), (0, high, ridge), (0, high, -ridge)) for s in (-1, 1)
    ]
    ends = [
        sheet((-x, 0, s * z), (x, 0, s * z), (0, high, s * ridge), (0, high, s * ridge))
        for s in (-1, 1)
    ]
    floor = [sheet((-x, 0, -z), (x, 0, -z), (x, 0, z), (-x, 0, z))]
    return sides + ends[: int(draw.integers(1, 3))] + floor


FAMILIES: dict[str, Callable[[Draw], list[Mesh]]] = {
    "chair": chair,
    "table": table,
    "lamp": lamp,
    "shelf": shelf,
    "cup": cup,
    "bottle": bottle,
    "aeroplane": aeroplane,
    "car": car,
    "tree": tree,
    "tent": tent,
}
