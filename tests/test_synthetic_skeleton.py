"""Made motion: the same on every machine, and blind to what numbers at fixed places tell."""

import numpy as np
import pytest
import torch

from multimask.datasets.synthetic_skeleton import ACTIONS, PARENTS, clip, walkers
from multimask.modalities.skeleton_topologies import SMPL24


def test_made_motion_follows_from_its_seed_and_name_alone() -> None:
    table, smaller = walkers(20, 10, frames=16), walkers(5, 10, frames=16)
    assert (
        torch.equal(table[3]["skeleton"].nan_to_num(), smaller[3]["skeleton"].nan_to_num())
        or table.columns["subject"][3] != smaller.columns["subject"][3]
    )
    again = walkers(20, 10, frames=16)
    for row in range(30):
        assert torch.equal(table[row]["skeleton"].nan_to_num(), again[row]["skeleton"].nan_to_num())
    other = walkers(20, 10, frames=16, seed=1)
    assert not torch.equal(table[0]["skeleton"].nan_to_num(), other[0]["skeleton"].nan_to_num())


def test_made_subjects_are_in_one_split_only_and_labels_balanced() -> None:
    table = walkers(200, 100, frames=4)
    subjects = {
        split: {
            who
            for who, where in zip(table.columns["subject"], table.columns["split"], strict=True)
            if where == split
        }
        for split in ("train", "test")
    }
    assert not subjects["train"] & subjects["test"]
    labels = list(table.columns["label"])
    assert {labels.count(action) for action in ACTIONS} == {30}
    assert set(walkers(8, 4, frames=4, label="style").columns["label"]) == {"neutral"}


def test_made_subjects_do_not_keep_to_some_actions() -> None:
    table = walkers(400, 10, frames=2)  # 20 people
    done: dict[str, set[str]] = {}
    for who, action in zip(table.columns["subject"], table.columns["action"], strict=True):
        done.setdefault(who, set()).add(action)
    train = [actions for who, actions in done.items() if who.startswith("train")]
    assert len(train) == 20
    assert min(len(actions) for actions in train) >= 4  # of about 20 clips each


@pytest.mark.parametrize("action", ACTIONS)
def test_made_bodies_have_bones_of_one_length_and_stand_on_the_floor(action: str) -> None:
    data = clip(action, "neutral", "somebody", action, 64, missing=0.0)
    children = [joint for joint, parent in enumerate(PARENTS) if parent >= 0]
    bones = data[:, children] - data[:, [PARENTS[joint] for joint in children]]
    length = np.linalg.norm(bones, axis=-1)
    assert length.std(axis=0).max() < 0.02  # 5 mm noise at both ends
    height = data[..., 1].max(axis=1) - data[..., 1].min(axis=1)
    assert height.min() > 0.5
    assert height.max() < 2.3
    lowest = data[..., 1].min(axis=1)
    if action not in ("jump", "run"):
        assert np.ptp(lowest) < 0.06  # the lower foot stays on the floor
    else:
        assert np.ptp(lowest) > 0.04
    assert np.array_equal(np.array(PARENTS)[1:], [parents_of(joint) for joint in range(1, 24)])


def parents_of(joint: int) -> int:
    (parent,) = [a for a, b in SMPL24.bones if b == joint]
    return parent


def test_made_labels_cannot_be_read_from_means_and_hardly_from_raw_values() -> None:
    from sklearn.linear_model import RidgeClassifierCV

    table = walkers(240, 120, frames=24)
    train = np.array([split == "train" for split in table.columns["split"]])
    data = np.stack([table[row]["skeleton"].nan_to_num().numpy() for row in range(len(table))])
    for name, most in (("action", 0.7), ("style", 0.4)):
        labels = np.array(list(table.columns[name]))
        chance = 1 / len(set(labels))
        for features, limit in (
            (data.mean(axis=(1, 2, 3)), chance + 0.2),
            (data[:, 0, 8:16].reshape(len(data), -1), most),
        ):
            probe = RidgeClassifierCV(np.logspace(-2, 4, 7)).fit(features[train], labels[train])
            assert probe.score(features[~train], labels[~train]) < limit
