"""Made objects (`synthetic_objects`) as point clouds, y up.

Every object is sampled evenly over its surface, turned about the upright axis, scaled along each
axis by itself, and given noise; half of the objects keep only what one viewpoint sees, as scanners
do. Example data: good for trying things out, no evidence about real objects.
"""

import numpy as np
from jaxtyping import Bool, Float

from multimask.datasets.formats.points import PointReader
from multimask.datasets.point_transforms import normalised, surface_points
from multimask.datasets.synthetic_objects import FAMILIES, Draw, merged
from multimask.datasets.table import Table
from multimask.tokens import sample_generator

DENSE = 4  # times the points wanted are sampled before hidden ones are removed
FLIP = 2.0  # exponent of the sphere that points are flipped at; larger sees deeper into hollows


def shapes(
    train: int = 1000, test: int = 400, points: int = 1024, noise: float = 0.01, seed: int = 0
) -> Table:
    """A table of `points` (points, 3) float32, mean at the origin and radius 1, `label`, `split`,
    and `partial`: whether only one side is there (1) or all (0).

    An object follows from its id and the seed. Families take turns, so classes are balanced.
    """
    clouds, labels, partial = [], [], []
    ids = [f"{s}/{n:05d}" for s, count in (("train", train), ("test", test)) for n in range(count)]
    for name in ids:
        number = int(name.split("/")[1])
        family = list(FAMILIES)[number % len(FAMILIES)]
        draw = np.random.default_rng(
            sample_generator(seed, 0, name, "shape").initial_seed() % 2**63
        )
        half = bool(number // len(FAMILIES) % 2)
        clouds.append(cloud(family, points, half, noise, draw))
        labels.append(family)
        partial.append(int(half))
    return Table.from_arrays(
        points=np.stack(clouds),
        label=labels,
        partial=partial,
        split=[name.split("/")[0] for name in ids],
        id=ids,
        modalities=["points"],
        reader=PointReader(num_points=points),
    )


def cloud(
    family: str, points: int, partial: bool, noise: float, draw: Draw
) -> Float[np.ndarray, "n 3"]:
    """One object, as a scanner that stands still (`partial`) or walks around it would give it."""
    vertices, faces = merged(FAMILIES[family](draw))
    angle, factor = draw.uniform(0, 2 * np.pi), draw.uniform(0.8, 1.25, size=3)
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    vertices = (vertices * factor) @ turn.T
    count = DENSE * points if partial else points
    while True:
        chosen, weights, _ = surface_points(vertices, faces, count, draw)
        made = normalised(np.einsum("nk,nkd->nd", weights, vertices[faces[chosen]]), "sphere")
        if partial:
            around, above = draw.uniform(0, 2 * np.pi), draw.uniform(0.1, 0.9)
            eye = 3 * np.array([np.cos(around), above, np.sin(around)])
            made = made[seen(made, eye)]
        if len(made) >= points:
            break
        count *= 2
    made = made[draw.permutation(len(made))[:points]]
    made = normalised(made + draw.normal(scale=noise, size=made.shape), "sphere")
    return made.astype(np.float32)


def seen(points: Float[np.ndarray, "n 3"], eye: Float[np.ndarray, " 3"]) -> Bool[np.ndarray, " n"]:
    """Which points nothing hides from the eye: flipped outwards at a sphere around it, they lie on
    the convex hull (Katz, Tal and Basri, SIGGRAPH 2007)."""
    from scipy.spatial import ConvexHull

    away = points - eye
    far = np.linalg.norm(away, axis=1, keepdims=True)
    flipped = away + 2 * (far.max() * 10**FLIP - far) * away / far
    hull = ConvexHull(np.concatenate((flipped, np.zeros((1, 3)))))
    visible = np.zeros(len(points) + 1, dtype=bool)
    visible[hull.vertices] = True
    return visible[:-1]
