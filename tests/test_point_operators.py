"""Point operators: hand-made cases, and the same answers from every back end."""

import importlib.util
import logging
import sys
import types

import pytest
import torch
from torch import Tensor

from multimask.modalities import point_backends
from multimask.modalities.point_operators import (
    ball_query,
    chamfer,
    check_pair,
    farthest_points,
    knn,
)

INSTALLED = ["tree", "torch"] + (["pytorch3d"] if importlib.util.find_spec("pytorch3d") else [])


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(point_backends.VARIABLE, raising=False)
    point_backends.chosen.cache_clear()


def ragged(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Clouds, queries, lengths of both, k: sizes on both sides of where trees begin to pay."""
    g = torch.Generator().manual_seed(seed)
    b, n, q, k = (int(torch.randint(1, top, (1,), generator=g)) for top in (5, 220, 60, 40))
    cloud, queries = torch.randn(b, n, 3, generator=g), torch.randn(b, q, 3, generator=g)
    lengths = torch.randint(1, n + 1, (b,), generator=g)
    return cloud, queries, lengths, torch.randint(1, q + 1, (b,), generator=g), k


@pytest.mark.parametrize("backend", [name for name in INSTALLED if name != "torch"])
def test_all_back_ends_agree_on_ragged_clouds(backend: str) -> None:
    agree(backend, batches=500)


def agree(backend: str, batches: int) -> None:
    for seed in range(batches):
        cloud, queries, lengths, counts, k = ragged(seed)
        answers = []
        for name in ("torch", backend):
            near, index = knn(queries, cloud, k, counts, lengths, backend=name)
            inside, first = ball_query(queries, cloud, k, 0.7, counts, lengths, backend=name)
            far = farthest_points(cloud, k, lengths, backend=name)
            apart = chamfer(queries, cloud, counts, lengths, backend=name)
            answers.append((near, index, inside, first, far, apart))
        for one, other in zip(*answers, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", INSTALLED)
def test_farthest_points_of_a_line(backend: str) -> None:
    line = torch.tensor([[[x + 5.0, 5.0, 5.0] for x in (0.0, 1.0, 2.0, 10.0)]])
    # after 0 and 10, the point 2 is farther from both than 1
    assert farthest_points(line, 4, backend=backend).tolist() == [[0, 3, 2, 1]]
    # a cloud of two points has no third
    lengths = torch.tensor([2])
    assert farthest_points(line, 3, lengths, backend=backend).tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("backend", INSTALLED)
def test_neighbours_by_hand(backend: str) -> None:
    cloud = torch.tensor([[[0.0], [1.0], [3.0], [7.0]]])
    near, index = knn(torch.tensor([[[2.9]]]), cloud, 3, backend=backend)
    assert index.tolist() == [[[2, 1, 0]]]
    torch.testing.assert_close(near, torch.tensor([[[0.01, 3.61, 8.41]]]))
    # more than there are: zeros behind, as in pytorch3d
    near, index = knn(cloud[:, :1], cloud, 4, lengths=torch.tensor([2]), backend=backend)
    assert index.tolist() == [[[0, 1, 0, 0]]]
    assert near.tolist() == [[[0, 1, 0, 0]]]


@pytest.mark.parametrize("backend", INSTALLED)
def test_a_ball_is_open_and_gives_the_first_by_index(backend: str) -> None:
    cloud = torch.tensor([[[2.0], [0.5], [0.0], [1.0]]])
    inside, index = ball_query(torch.zeros(1, 1, 1), cloud, 3, 1.0, backend=backend)
    assert index.tolist() == [[[1, 2, -1]]]  # the point at distance 1 itself is outside
    assert inside.tolist() == [[[0.25, 0, 0]]]
    assert ball_query(torch.zeros(1, 1, 1), cloud, 2, 9.0, backend=backend)[1].tolist() == [
        [[0, 1]]
    ]


@pytest.mark.parametrize("backend", INSTALLED)
def test_chamfer_in_closed_form(backend: str) -> None:
    a, b = torch.zeros(1, 1, 3), torch.tensor([[[1.0, 0, 0], [0, 2, 0]]])
    assert chamfer(a, b, backend=backend).tolist() == [3.5]
    assert chamfer(a, b, norm="l1", backend=backend).tolist() == [1.25]


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("backend", ["tree", "torch"])
def test_chamfer_has_the_gradient_of_all_pairs(norm: str, backend: str) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, n, 3, generator=g, dtype=torch.float64) for n in (7, 9))
    for cloud in (x, y):
        cloud.requires_grad_()

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return chamfer(x, y, norm=norm, backend=backend)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(distance, (x, y))
    apart = (x[:, :, None] - y[:, None]).square().sum(-1)
    sides = apart.amin(2), apart.amin(1)
    wanted = sum(side.mean(1) for side in sides)
    if norm == "l1":
        wanted = sum(side.sqrt().mean(1) for side in sides) / 2
    torch.testing.assert_close(distance(x, y), wanted)


def test_touching_clouds_have_a_finite_gradient() -> None:
    x = torch.ones(1, 4, 3, requires_grad=True)
    chamfer(x, torch.ones(1, 4, 3), norm="l1").sum().backward()
    assert x.grad is not None
    assert x.grad.eq(0).all()


@pytest.mark.parametrize("backend", INSTALLED)
def test_far_from_the_origin_neighbours_are_still_exact(backend: str) -> None:
    # as a matrix product these distances would be pure rounding error
    cloud = torch.arange(200.0)[None, :, None] * 0.25 + torch.tensor([60000.0, 60000.0, 60000.0])
    near, index = knn(cloud, cloud, 2, backend=backend)
    assert index[0, :, 0].tolist() == list(range(200))
    assert near[0, :, 1].eq(3 * 0.25**2).all()


def test_a_copy_of_the_environment_or_an_argument_forces_a_back_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cloud = torch.rand(1, 8, 3)
    for _ in range(3):
        knn(cloud, cloud, 2, backend="torch")
    assert [r.message for r in caplog.records] == [
        "point operators on cpu: back end torch (asked for)"
    ]
    monkeypatch.setenv(point_backends.VARIABLE, "tree")
    knn(cloud, cloud, 2)
    assert "back end tree (asked for)" in caplog.records[-1].message
    monkeypatch.setenv(point_backends.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="'cuda' is unknown; it is one of pytorch3d, tree, torch"):
        knn(cloud, cloud, 2)


def test_a_back_end_that_is_not_installed_is_said() -> None:
    if "pytorch3d" in INSTALLED:
        pytest.skip("pytorch3d is installed here.")
    with pytest.raises(ImportError, match="pytorch3d is not installed"):
        farthest_points(torch.rand(1, 4, 3), 2, backend="pytorch3d")


def test_pytorch3d_is_called_by_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that keeps pytorch3d's signatures and answers through the torch back end."""
    stand_in = types.ModuleType("pytorch3d.ops")

    class Found:
        def __init__(self, idx: Tensor) -> None:
            self.idx = idx

    def sample_farthest_points(
        points: Tensor,
        lengths: Tensor | None = None,
        K: int = 50,
        random_start_point: bool = False,
    ) -> tuple[None, Tensor]:
        assert not random_start_point
        return None, farthest_points(points, K, lengths, backend="torch")

    def knn_points(
        p1: Tensor,
        p2: Tensor,
        lengths1: Tensor | None = None,
        lengths2: Tensor | None = None,
        norm: int = 2,
        K: int = 1,
        version: int = -1,
        return_nn: bool = False,
        return_sorted: bool = True,
    ) -> Found:
        return Found(knn(p1, p2, K, lengths1, lengths2, backend="torch")[1])

    def within(
        p1: Tensor,
        p2: Tensor,
        lengths1: Tensor | None = None,
        lengths2: Tensor | None = None,
        K: int = 500,
        radius: float = 0.2,
        return_nn: bool = True,
    ) -> Found:
        return Found(ball_query(p1, p2, K, radius, lengths1, lengths2, backend="torch")[1])

    vars(stand_in).update(
        sample_farthest_points=sample_farthest_points, knn_points=knn_points, ball_query=within
    )
    monkeypatch.setitem(sys.modules, "pytorch3d", types.ModuleType("pytorch3d"))
    monkeypatch.setitem(sys.modules, "pytorch3d.ops", stand_in)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        point_backends.importlib.util,
        "find_spec",
        lambda name: name if name == "pytorch3d" else find(name),
    )
    assert isinstance(point_backends.choose(None, torch.device("cpu")), point_backends.Pytorch3d)
    agree("pytorch3d", batches=50)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: knn(torch.rand(1, 4, 3), torch.rand(1, 4, 3), 0), "k=0 must be at least 1"),
        (lambda: farthest_points(torch.rand(1, 4, 3), 0), "count=0 must be at least 1"),
        (lambda: ball_query(torch.rand(1, 4, 3), torch.rand(1, 4, 3), 1, -1.0), "radius=-1.0"),
        (lambda: chamfer(torch.rand(1, 0, 3), torch.rand(1, 4, 3)), "neither may be empty"),
    ],
)
def test_what_makes_no_sense_is_said(call: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("other", [(2, 4, 3), (1, 4, 2)])
def test_clouds_that_do_not_go_together_are_said(other: tuple[int, ...]) -> None:
    # the check itself: in tests, types catch such shapes even before
    with pytest.raises(ValueError, match=r"knn: .* differ in batch or dimension"):
        check_pair(torch.rand(1, 4, 3), torch.rand(*other), None, None, 1, "knn")


@pytest.mark.gpu
def test_a_device_gives_the_same_answers() -> None:
    for seed in range(50):
        cloud, queries, lengths, counts, k = ragged(seed)
        here = knn(queries, cloud, k, counts, lengths), farthest_points(cloud, k, lengths)
        there = (x.cuda() for x in (queries, cloud, counts, lengths))
        a, b, c, d = there
        (near, index), far = knn(a, b, k, c, d), farthest_points(b, k, d)
        torch.testing.assert_close(near.cpu(), here[0][0], rtol=1e-6, atol=0)
        assert index.cpu().equal(here[0][1])
        assert far.cpu().equal(here[1])
