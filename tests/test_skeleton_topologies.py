"""Skeletons as graphs: tables of joints, trees of files, and encodings that tell joints apart."""

import pytest
import torch

from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_encodings import (
    JointPlaces,
    LaplacianPlaces,
    laplacian_encoding,
    walk_encoding,
)
from multimask.modalities.skeleton_topologies import (
    COCO17,
    TOPOLOGIES,
    Topology,
    mirrored,
    topology,
    tree,
)

# --- topologies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_table_is_a_connected_graph_with_parts_and_sides(name: str) -> None:
    table = topology(name)
    adjacency = table.adjacency()
    assert torch.equal(adjacency, adjacency.T)
    assert adjacency.diagonal().sum() == 0
    assert adjacency.sum() == 2 * len(table.bones)
    assert table.hops().isfinite().all()
    assert sorted(sum(table.parts.values(), ())) == list(range(len(table)))
    # mirroring the body maps bones to bones and parts to parts
    bones = {frozenset(bone) for bone in table.bones}
    assert {frozenset(table.mirror[joint] for joint in bone) for bone in bones} == bones
    for joint, other in enumerate(table.mirror):
        swapped = table.joints[joint].replace("left", "X").replace("right", "left")
        assert table.joints[other] == swapped.replace("X", "right")


def test_coco_has_the_six_parts_of_skeletonmae() -> None:
    assert [len(joints) for joints in COCO17.parts.values()] == [5, 4, 2, 2, 2, 2]
    assert 16 <= len(COCO17.bones) <= 19


def test_a_tree_from_a_file_gets_parts_and_sides_of_its_own() -> None:
    made = tree(["hip", "l_knee", "l_foot", "r_knee", "r_foot"], [-1, 0, 1, 0, 3])
    assert dict(made.parts) == {"hip": (0,), "l_knee": (1, 2), "r_knee": (3, 4)}
    assert made.mirror == (0, 3, 4, 1, 2)
    names = ["lfemur", "rfemur", "lowerback", "Hand_L", "Hand_R", "LeftArm", "RightArm"]
    assert mirrored(names) == (1, 0, 2, 4, 3, 6, 5)


@pytest.mark.parametrize(
    ("bones", "more", "message"),
    [
        (((0, 1),), {}, "connect all joints"),
        (((0, 1), (1, 0), (1, 2)), {}, "occurs twice"),
        (((0, 0), (0, 1), (1, 2)), {}, "to itself"),
        (((0, 1), (1, 3)), {}, "only 0..2"),
        (((0, 1), (1, 2)), {"parts": {"a": (0, 1)}}, "exactly one part"),
        (((0, 1), (1, 2)), {"mirror": (1, 2, 0)}, "in pairs"),
    ],
)
def test_a_contradictory_topology_is_refused(bones, more, message) -> None:
    with pytest.raises(ValueError, match=message):
        Topology(("a", "b", "c"), bones, **more)


def test_an_unknown_topology_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="there are coco17, openpose18"):
        topology("coco18")


# --- encodings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_walks_and_eigenvectors_equal_those_of_torch_geometric(name: str) -> None:
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddLaplacianEigenvectorPE, AddRandomWalkPE

    table = topology(name)
    data = Data(edge_index=table.edges(), num_nodes=len(table))
    walks = AddRandomWalkPE(6, attr_name="walk")(data).walk
    torch.testing.assert_close(walk_encoding(table, 6), walks, atol=1e-5, rtol=1e-5)

    ours = laplacian_encoding(table, 4)
    theirs = AddLaplacianEigenvectorPE(4, attr_name="pe", is_undirected=True)(data).pe
    if eigenvalues_differ(table, 4):
        torch.testing.assert_close(ours.abs(), theirs.abs(), atol=1e-4, rtol=1e-3)
    else:  # within one eigenspace any basis is right: compare the projections on it
        whole = laplacian_encoding(table, len(table) - 1)
        torch.testing.assert_close(whole.T @ whole, torch.eye(len(table) - 1), atol=1e-4, rtol=0)


def eigenvalues_differ(table: Topology, count: int) -> bool:
    adjacency = table.adjacency()
    scale = adjacency.sum(dim=1).rsqrt()
    values = torch.linalg.eigvalsh(torch.eye(len(table)) - scale[:, None] * adjacency * scale)
    return bool((values[1 : count + 2].diff() > 1e-4).all())


def test_encodings_tell_joints_frames_and_bodies_apart() -> None:
    tokenizer = SkeletonJoints(COCO17, frames=3, dims=2, bodies=2)
    torch.manual_seed(0)
    slots = torch.arange(tokenizer.num_tokens)
    coords = torch.zeros(len(slots), 3)
    for cls in (JointPlaces, LaplacianPlaces):
        module = cls(tokenizer, 32)
        torch.nn.init.normal_(module.around.body)
        vectors = module(coords, slots, tokenizer.grid)
        distances = torch.cdist(vectors, vectors) + torch.eye(len(slots))
        assert distances.min() > 1e-3, cls.__name__
