"""Positions: MAE's table, restated independently; other ranks; interpolation."""

import numpy as np
import pytest
import torch

from multimask.modalities.image import ImagePatches
from multimask.nn.positions import CoordMLP, Learned, SinCos, interpolate_table, sincos
from multimask.tokens import Part, Tokens

PATCHES = ImagePatches((16, 24), 8)  # a lattice of 2 x 3


def table_as_in_mae(width: int, height: int, across: int) -> np.ndarray:
    """The published table, token by token, in plain numpy: column half first, sines first."""

    def half(place: int) -> list[float]:
        count = width // 4
        omega = [1 / 10000 ** (j / count) for j in range(count)]
        return [np.sin(place * w) for w in omega] + [np.cos(place * w) for w in omega]

    return np.array([half(x) + half(y) for y in range(height) for x in range(across)])


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 5), (14, 14)])
def test_the_table_is_maes(height: int, width: int) -> None:
    ours, theirs = sincos((height, width), 64), table_as_in_mae(64, height, width)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("grid", [(7,), (2, 3), (2, 3, 4), (2, 2, 3, 2)])
def test_every_place_of_any_lattice_has_its_own_position(grid: tuple[int, ...]) -> None:
    table = sincos(grid, 50)
    assert table.shape == (np.prod(grid), 50)
    distances = torch.cdist(table, table) + torch.eye(len(table))
    assert distances.min() > 0.1


def test_an_axis_has_its_own_numbers() -> None:
    table = sincos((2, 3, 4), 48).view(2, 3, 4, 48)  # 16 numbers an axis, the last axis first
    assert torch.equal(table[0, 0, :, :16], table[1, 2, :, :16])
    assert torch.equal(table[0, :, 0, 16:32], table[1, :, 3, 16:32])
    assert torch.equal(table[:, 0, 0, 32:], table[:, 2, 3, 32:])


def test_a_width_too_small_for_the_lattice_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"width=3 .* 2 axes; it must be at least 4"):
        SinCos(PATCHES, 3)


# --- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SinCos, Learned, CoordMLP])
def test_asking_for_some_places_is_asking_for_all_and_picking(kind: type) -> None:
    torch.manual_seed(0)
    position = kind(PATCHES, 16)
    coords, slots = torch.rand(6, 2), torch.arange(6)
    every = position(coords, slots, (2, 3))
    some = torch.tensor([4, 0, 4])
    torch.testing.assert_close(position(coords[some], slots[some], (2, 3)), every[some])
    assert position(coords[:0], slots[:0], (2, 3)).shape == (0, 16)


def test_fixed_positions_follow_any_lattice() -> None:
    position = SinCos(PATCHES, 16)
    larger = position(torch.zeros(20, 2), torch.arange(20), (4, 5))
    assert torch.equal(larger, sincos((4, 5), 16))
    assert not list(position.parameters())
    assert not position.state_dict()


def test_learned_positions_on_their_own_lattice_are_the_table() -> None:
    position = Learned(PATCHES, 16)
    assert torch.equal(position(torch.zeros(6, 2), torch.arange(6), (2, 3)), position.table)


def test_learned_positions_are_interpolated_to_another_lattice() -> None:
    position = Learned(PATCHES, 16)
    found = position(torch.zeros(24, 2), torch.arange(24), (4, 6))
    wanted = interpolate_table(position.table, (2, 3), (4, 6))
    assert torch.equal(found, wanted)
    found.sum().backward()
    assert position.table.grad is not None


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_interpolation_keeps_constants_and_slopes_upright(rank: int) -> None:
    old, new = (4, 5, 6)[:rank], (8, 10, 12)[:rank]
    cells = int(np.prod(old))
    torch.testing.assert_close(
        interpolate_table(torch.full((cells, 2), 3.0), old, new),
        torch.full((int(np.prod(new)), 2), 3.0),
    )
    axes = torch.meshgrid(*(torch.arange(float(size)) for size in old), indexing="ij")
    slopes = torch.stack([axis.flatten() for axis in axes], dim=1)
    fine = interpolate_table(slopes, old, new).unflatten(0, new)
    for axis in range(rank):
        along = fine[..., axis].movedim(axis, 0).reshape(new[axis], -1)
        # halfway places: a new cell's centre lies a quarter of an old cell from an old centre
        torch.testing.assert_close(along[3:5, 0], torch.tensor([1.25, 1.75]), atol=0.05, rtol=0)
        torch.testing.assert_close(along, along[:, :1].expand_as(along), atol=1e-5, rtol=0)


def test_interpolation_to_the_same_lattice_changes_nothing() -> None:
    table = torch.randn(6, 4)
    torch.testing.assert_close(interpolate_table(table, (2, 3), (2, 3)), table)


def test_lattices_of_different_rank_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lattice \(2, 3\) to \(6,\)"):
        interpolate_table(torch.zeros(6, 4), (2, 3), (6,))


def test_positions_need_what_they_are_made_of() -> None:
    class Cloud:
        token_dim, coord_dim, num_tokens = 3, 3, None

        def __call__(self, part: Part) -> Tokens:
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"SinCos: Cloud has no lattice; use CoordMLP"):
        SinCos(Cloud(), 16)
    with pytest.raises(ValueError, match=r"Learned: Cloud has no fixed number of tokens"):
        Learned(Cloud(), 16)
