"""Made motion: people of different build who walk, wave, kick and bow in different moods.

Joint angles follow programmes of a few harmonics, positions follow by kinematics over segments of
human proportions; the lower foot stays on the floor but in jumps and runs. The joints are those of
SMPL (24). Every clip has its own tempo, phase, height, asymmetry, heading and place, sensor noise
and lost joints, so neither single coordinates nor their means tell the action.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from multimask.datasets.columns import Column
from multimask.datasets.formats.rotations import composed
from multimask.datasets.table import Table
from multimask.tokens import sample_generator

ACTIONS = (
    *("walk", "run", "wave_left", "wave_right", "wave_both"),
    *("squat", "kick", "jump", "arm_circles", "bow"),
)
STYLES = ("neutral", "tired", "hurried", "stiff")
RATE = 30.0

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
OFFSETS = {  # metres at rest of a person 1.7 m tall, arms hanging, y up, facing +z; left is +x
    **{1: (0.09, -0.04, 0), 2: (-0.09, -0.04, 0), 3: (0, 0.11, 0), 4: (0, -0.41, 0)},
    **{5: (0, -0.41, 0), 6: (0, 0.13, 0), 7: (0, -0.41, 0), 8: (0, -0.41, 0), 9: (0, 0.06, 0)},
    **{10: (0.02, -0.05, 0.13), 11: (-0.02, -0.05, 0.13), 12: (0, 0.21, 0)},
    **{13: (0.08, 0.11, 0), 14: (-0.08, 0.11, 0), 15: (0, 0.09, 0.03)},
    **{16: (0.1, 0.03, 0), 17: (-0.1, 0.03, 0), 18: (0, -0.27, 0), 19: (0, -0.27, 0)},
    **{20: (0, -0.25, 0), 21: (0, -0.25, 0), 22: (0, -0.08, 0), 23: (0, -0.08, 0)},
}
HIPS, KNEES, ANKLES = (1, 2), (4, 5), (7, 8)
SHOULDERS, ELBOWS, TRUNK, NECK = (16, 17), (18, 19), (3, 6, 9), 12

Angles = dict[tuple[int, str], Float[np.ndarray, " t"]]


@dataclass(frozen=True)
class Person:
    """Segment lengths relative to the average, left against right, and reach of movements."""

    height: float
    segments: tuple[float, ...]
    asymmetry: float
    amplitude: float


def walkers(
    train: int = 2000,
    test: int = 800,
    frames: int = 64,
    seed: int = 0,
    label: str = "action",
    missing: float = 0.02,
    modality: str = "skeleton",
) -> Table:
    """A table of clips `(1, frames, 24, 3)` float32, metres, y up, 30 frames a second.

    Columns: the modality, id, label, action, style, subject, split. Train and test share no
    subject. The root is at zero where the clip begins, as `centred(how="clip")` leaves it.

    Args:
        label: which column is copied to `label`, "action" (10 classes) or "style" (4, harder).
        seed: the only source of randomness; a clip depends on it and on its own number alone.
        missing: share of joints lost, in runs of frames; NaN.
    """
    if label not in ("action", "style"):
        raise ValueError(f"walkers: label={label!r} must be 'action' or 'style'.")
    if min(train, test, frames) < 1 or not 0 <= missing < 1:
        raise ValueError("walkers: train, test and frames must be at least 1, missing below 1.")
    rows = []
    for split, count in (("train", train), ("test", test)):
        people = max(2, round(math.sqrt(count)))
        for index in range(count):
            name = f"{split}/{index:05d}"
            action = ACTIONS[index % len(ACTIONS)]
            style = STYLES[index // len(ACTIONS) % len(STYLES)]
            # drawn, so that no subject keeps to some actions or moods
            who = int(people * numbers(seed, name, "subject", 1)[0])
            subject = f"{split}-{who:03d}"
            data = clip(action, style, subject, name, frames, seed, missing)
            rows.append((name, data[None], action, style, subject, split))
    ids, data, actions, styles, subjects, splits = zip(*rows, strict=True)
    columns = {
        modality: Column.of(np.stack(data)),
        "id": ids,
        "label": actions if label == "action" else styles,
        "action": actions,
        "style": styles,
        "subject": subjects,
        "split": splits,
    }
    return Table.of(columns, {modality: None})


def clip(
    action: str,
    style: str,
    subject: str,
    name: str,
    frames: int = 64,
    seed: int = 0,
    missing: float = 0.02,
) -> Float[np.ndarray, "t v c"]:
    """One clip. The subject's build depends on seed and subject, all else on seed and name."""
    person = build(numbers(seed, subject, "person", 27))
    draw = numbers(seed, name, "motion", 32)
    tempo, phase = moods(style, draw)
    time = np.arange(frames) / RATE
    beat = 2 * math.pi * (tempo * time + phase)
    angles, airborne = programme(action, beat, person.amplitude * reach(style), draw)
    carry(angles, style, time, draw)
    placed = kinematics(angles, person, frames)
    placed = on_floor(placed, airborne, person)
    if action in ("walk", "run"):
        stride = (0.65 if action == "walk" else 1.15) * person.height * reach(style)
        placed[..., 2] += (stride * 2 * tempo * time)[:, None]
    heading = about_up(2 * math.pi * draw[0])
    placed = placed @ heading.T
    placed -= placed[:1, :1]
    noise = np.random.default_rng(int(draw[31] * 2**53))
    placed += noise.normal(scale=0.005, size=placed.shape)
    lose(placed, missing, noise)
    return placed.astype(np.float32)


def numbers(seed: int, name: str, purpose: str, count: int) -> Float[np.ndarray, " k"]:
    """Uniform numbers in 0..1 of this name and purpose."""
    import torch

    generator = sample_generator(seed, 0, name, purpose)
    return torch.rand(count, generator=generator, dtype=torch.float64).numpy()


def build(draw: Float[np.ndarray, " k"]) -> Person:
    def spread(value: float, width: float) -> float:
        return 1 + width * (2 * value - 1)

    segments = [spread(value, 0.087) for value in draw[:24]]  # a uniform of sd 5 %
    for left, right in (*zip((1, 4, 7, 10), (2, 5, 8, 11), strict=True), (13, 14), (16, 17)):
        segments[right] = segments[left]  # bones of the two sides are equally long
    for left, right in ((18, 19), (20, 21), (22, 23)):
        segments[right] = segments[left]
    return Person(
        spread(draw[24], 0.12), tuple(segments), 0.2 * (draw[25] - 0.5), spread(draw[26], 0.25)
    )


def moods(style: str, draw: Float[np.ndarray, " k"]) -> tuple[float, float]:
    """Cycles a second, and where in the cycle the clip begins."""
    base = 0.7 + 0.7 * draw[1]
    return base * {"tired": 0.8, "hurried": 1.25}.get(style, 1.0), float(draw[2])


def reach(style: str) -> float:
    return {"tired": 0.8, "stiff": 0.75, "hurried": 1.05}.get(style, 1.0)


def programme(
    action: str,
    beat: Float[np.ndarray, " t"],
    size: float,
    draw: Float[np.ndarray, " k"],
) -> tuple[Angles, Float[np.ndarray, " t"]]:
    """Degrees of joints about their own axes (x: forward is negative for limbs), and metres above
    the floor."""
    wave, late = np.sin(beat), np.sin(beat - 0.6)
    zero = np.zeros_like(beat)
    angles: Angles = {}
    air = zero
    sides = (1.0, -1.0)  # left, right

    def swing(amount: float, bend: float, arms: float, elbow: float) -> None:
        for side, hip, knee, shoulder, joint in zip(
            sides, HIPS, KNEES, SHOULDERS, ELBOWS, strict=True
        ):
            angles[hip, "x"] = -size * amount * side * wave
            angles[knee, "x"] = size * bend * (0.55 + 0.45 * side * np.cos(beat))
            angles[shoulder, "x"] = size * arms * side * late  # arms swing against the legs
            angles[joint, "x"] = zero - elbow
        angles[TRUNK[0], "y"] = 6 * size * wave

    def lift(which: Sequence[int]) -> None:
        for index in which:
            side = sides[index]
            angles[SHOULDERS[index], "z"] = side * (115 + 20 * draw[3]) + zero
            angles[ELBOWS[index], "z"] = side * (35 + 30 * size * np.sin(2 * beat))

    if action == "walk":
        swing(24.0, 32.0, 22.0, 15.0)
    elif action == "run":
        swing(42.0, 75.0, 38.0, 80.0)
        air = 0.08 * size * np.abs(np.cos(beat))
        angles[TRUNK[0], "x"] = zero + 10
    elif action == "wave_left":
        lift([0])
    elif action == "wave_right":
        lift([1])
    elif action == "wave_both":
        lift([0, 1])
    elif action == "squat":
        depth = size * 0.5 * (1 - np.cos(beat))
        for hip, knee, ankle, shoulder in zip(HIPS, KNEES, ANKLES, SHOULDERS, strict=True):
            angles[hip, "x"], angles[knee, "x"] = -75 * depth, 105 * depth
            angles[ankle, "x"], angles[shoulder, "x"] = -30 * depth, -60 * depth
        angles[TRUNK[0], "x"] = 25 * depth
    elif action == "kick":
        leg = int(draw[4] < 0.5)
        blow = np.clip(np.sin(beat), -0.4, 1) * size
        angles[HIPS[leg], "x"] = -75 * blow
        angles[KNEES[leg], "x"] = 45 * size * (1 - np.clip(np.sin(beat), 0, 1))
        angles[SHOULDERS[1 - leg], "x"] = -30 * blow
        angles[TRUNK[0], "x"] = -8 * blow
    elif action == "jump":
        crouch = size * np.clip(-np.sin(beat), 0, 1)
        air = 0.32 * size * np.clip(np.sin(beat), 0, 1)
        for hip, knee, ankle, shoulder in zip(HIPS, KNEES, ANKLES, SHOULDERS, strict=True):
            angles[hip, "x"], angles[knee, "x"] = -50 * crouch, 80 * crouch
            angles[ankle, "x"] = -25 * crouch
            angles[shoulder, "x"] = size * (40 * crouch - 70 * np.clip(np.sin(beat), 0, 1))
    elif action == "arm_circles":
        for side, shoulder in zip(sides, SHOULDERS, strict=True):
            angles[shoulder, "z"] = side * (80 + 25 * size * np.sin(beat))
            angles[shoulder, "x"] = 28 * size * np.cos(beat)
    elif action == "bow":
        bent = size * 0.5 * (1 - np.cos(beat))
        for joint, share in zip(TRUNK, (28, 22, 14), strict=True):
            angles[joint, "x"] = share * bent
        angles[NECK, "x"] = 15 * bent
        for shoulder in SHOULDERS:
            angles[shoulder, "x"] = -20 * bent
    else:
        raise ValueError(f"clip: action {action!r} is unknown; there are {', '.join(ACTIONS)}.")
    return angles, air


def carry(
    angles: Angles, style: str, time: Float[np.ndarray, " t"], draw: Float[np.ndarray, " k"]
) -> None:
    """What style adds to every action, and everybody's own small sway."""
    zero = np.zeros_like(time)

    def add(joint: int, axis: str, value: Float[np.ndarray, " t"] | float) -> None:
        angles[joint, axis] = angles.get((joint, axis), zero) + value

    for index, joint in enumerate((*TRUNK, NECK, *SHOULDERS)):
        add(joint, "z", 3 * np.sin(2 * math.pi * (0.3 * time + draw[8 + index])))
        add(joint, "x", 8 * (draw[14 + index] - 0.5))
    if style == "tired":
        add(TRUNK[2], "x", 9.0 + 3 * np.sin(2 * math.pi * 0.25 * time + draw[20]))
        add(NECK, "x", 12.0)
    elif style == "stiff":
        for joint in (*ELBOWS, *KNEES):
            angles[joint, "x"] = 0.5 * angles.get((joint, "x"), zero)
    elif style == "hurried":
        add(TRUNK[0], "x", 6.0)
        for joint in ELBOWS:
            add(joint, "x", -12.0)


def kinematics(angles: Angles, person: Person, frames: int) -> Float[np.ndarray, "t v c"]:
    placed = np.zeros((frames, len(PARENTS), 3))
    turned = [np.tile(np.eye(3), (frames, 1, 1))] * len(PARENTS)
    left = {1, 4, 7, 10, 13, 16, 18, 20, 22}
    for joint, parent in enumerate(PARENTS):
        if parent < 0:
            continue
        reach = np.array(OFFSETS[joint]) * person.height * person.segments[joint]
        placed[:, joint] = placed[:, parent] + turned[parent] @ reach
        lean = 1 + (person.asymmetry if joint in left else -person.asymmetry)
        axes = "".join(axis for axis in "zyx" if (joint, axis) in angles)
        turned[joint] = turned[parent]
        if axes:
            own = np.stack([angles[joint, axis] for axis in axes], axis=1) * lean
            turned[joint] = turned[parent] @ composed(axes, own)
    return placed


def on_floor(
    placed: Float[np.ndarray, "t v c"], air: Float[np.ndarray, " t"], person: Person
) -> Float[np.ndarray, "t v c"]:
    """Move the body so that its lowest joint is `air` above the floor."""
    lowest = placed[..., 1].min(axis=1)
    placed[..., 1] += (air * person.height - lowest)[:, None]
    return placed


def about_up(angle: float) -> Float[np.ndarray, "3 3"]:
    sin, cos = math.sin(angle), math.cos(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def lose(placed: Float[np.ndarray, "t v c"], share: float, generator: np.random.Generator) -> None:
    """Joints vanish for a stretch of about a quarter of a second; the root is always seen."""
    frames, joints = placed.shape[:2]
    length = min(frames, 8)
    for _ in range(generator.poisson(share * frames * joints / length)):
        joint = generator.integers(1, joints)
        start = generator.integers(0, frames - length + 1)
        placed[start : start + length, joint] = np.nan
