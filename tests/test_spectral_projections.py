"""A projection per known band: mixing by wavelength, invariances, heads that answer by place."""

from typing import Any

import pytest
import torch

from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.spectral_adapter import SpectralAdapter
from multimask.modalities.spectral_projections import BandProjections
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.objectives import Reconstruction
from multimask.tokens import Step

ANCHORS = (442.5, 492.5, 1610.0)


def projections(patches: SpectralPatches, **arguments: Any) -> BandProjections:
    torch.manual_seed(0)
    made = BandProjections(patches, 8, 8, ANCHORS, **arguments)
    torch.nn.init.normal_(made.enter_bias)
    return made


def coords(*nm: float, names: tuple[int, ...] | None = None) -> torch.Tensor:
    return torch.tensor([[0.0, 0.0, *nm, *(names or (-1,) * len(nm))]])


def weights(nm: float, closeness: str = "inverse") -> list[float]:
    return projections(SpectralPatches(), closeness=closeness).mixing(coords(nm))[0, 0].tolist()


def test_a_known_band_has_exactly_its_own_projection() -> None:
    for place, nm in enumerate(ANCHORS):
        assert weights(nm) == [float(place == other) for other in range(3)]
        assert weights(nm, "as-released") == weights(nm)


def test_between_two_bands_the_nearer_one_counts_more() -> None:
    assert weights(482.0) == pytest.approx([0.21, 0.79, 0.0])  # Landsat's blue
    assert weights(482.0, "as-released") == pytest.approx([0.79, 0.21, 0.0])


def test_nothing_is_extrapolated() -> None:
    assert weights(300.0) == [1.0, 0.0, 0.0]
    assert weights(10_900.0) == [0.0, 0.0, 1.0]


def test_named_channels_follow_the_wavelengths() -> None:
    patches = SpectralPatches(names=("VV", "VH"))
    mixed = projections(patches).mixing(coords(0.0, names=(1,)))
    assert mixed[0, 0].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]


def test_repeating_or_permuting_bands_changes_no_token() -> None:
    four, two = (projections(SpectralPatches(patch=2, bands=n, group=n)) for n in (4, 2))
    two.load_state_dict(four.state_dict())
    pixels = torch.rand(1, 4, 2)  # (token, pixel, band)
    once = two.embed(pixels.flatten(1), coords(450.0, 1610.0)) / 2
    twice = torch.cat((pixels, pixels), dim=2).flatten(1)
    repeated = four.embed(twice, coords(450.0, 1610.0, 450.0, 1610.0)) / 4
    torch.testing.assert_close(repeated, once, rtol=1e-5, atol=1e-6)
    turned = two.embed(pixels.flip(2).flatten(1), coords(1610.0, 450.0)) / 2
    torch.testing.assert_close(turned, once, rtol=1e-5, atol=1e-6)


def test_all_bands_together_are_the_plain_sum() -> None:
    made = projections(SpectralPatches(patch=2, bands=3, group=3))
    pixels = torch.rand(1, 4, 3)
    per_band = [
        pixels[..., band] @ made.enter.weight[:, 4 * band : 4 * band + 4].T + made.enter_bias[band]
        for band in range(3)
    ]
    torch.testing.assert_close(made.embed(pixels.flatten(1), coords(*ANCHORS)), sum(per_band))


def test_a_head_whose_band_is_not_asked_gets_no_gradient() -> None:
    patches = SpectralPatches(size=8, patch=4, bands=2, wavelengths=ANCHORS)
    adapter = SpectralAdapter(patches, 32, 32, projections="bands")
    model = MaskedModel(
        {"cube": patches}, adapters={"cube": adapter}, width=32, heads=2, depth=1,
        decoder_width=32, decoder_depth=1,
    )  # fmt: skip
    sample = {"id": "a", "cube": {"pixels": torch.rand(2, 8, 8), "wavelengths": ANCHORS[::2]}}
    batch = collate([sample], {"cube": patches})
    Reconstruction()(model, batch, Step())["cube"].value().backward()
    projection = adapter.projection
    assert isinstance(projection, BandProjections)
    assert projection.leave.weight.grad is not None
    per_head = projection.leave.weight.grad.view(3, -1).abs().sum(dim=1)
    assert per_head[0] > 0
    assert per_head[1] == 0
    assert per_head[2] > 0


def test_anchors_are_needed() -> None:
    with pytest.raises(ValueError, match="at least one wavelength"):
        BandProjections(SpectralPatches(), 8, 8)
