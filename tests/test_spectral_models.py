"""Models of band cubes: missing pixels reach nothing, and bands may come and go."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multimask.checkpoints import load
from multimask.evaluation import reconstruction_error
from multimask.masking import Count, Masker, Natural, Ratio, Tied, Uniform
from multimask.methods.mae import mae
from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.spectral_adapter import SpectralAdapter
from multimask.modalities.spectral_masking import ChannelPatch
from multimask.modality import collate
from multimask.nn.adapters import Target
from multimask.objectives import Reconstruction
from multimask.tokens import Step, Tokens
from small_cubes import NM, PATCHES, batch_of, cube, small, tokens_of

# --- models ---------------------------------------------------------------------------------------


def test_missing_pixels_reach_neither_the_encoder_nor_the_loss() -> None:
    sample = cube(5)
    sample["pixels"][:, :2, :6] = torch.nan
    batch = batch_of(sample, cube(6))
    for unit in ("none", "patch", "channel"):
        model = small(target=Target(unit)).train()
        term = Reconstruction(Masker(Uniform(), Ratio(0.75)))(model, batch, Step())["cube"]
        term.value().backward()
        assert term.total.isfinite()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients
        assert all(g.isfinite().all() for g in gradients)


def test_error_ignores_missing_pixels() -> None:
    adapter = SpectralAdapter(PATCHES, 16, 16, Target("patch"))
    values = torch.rand(4, 16)
    prediction = torch.rand(4, 16)
    there = adapter.error(prediction[:, :12], values[:, :12])
    values[:, 12:] = torch.nan
    torch.testing.assert_close(adapter.error(prediction, values), there)
    assert not adapter.error(prediction, torch.full((4, 16), torch.nan)).any()


def test_targets_are_exact_whatever_the_precision_of_answers() -> None:
    adapter = SpectralAdapter(PATCHES, 16, 16, Target("patch"))
    values, prediction = 1000 + torch.rand(4, 16), torch.rand(4, 16).to(torch.bfloat16)
    error = adapter.error(prediction, values)
    torch.testing.assert_close(error, adapter.error(prediction.float(), values))


def test_reconstruction_errors_leave_out_what_is_missing() -> None:
    """Half of every patch is missing: its error is that of the other half."""
    pixels = torch.rand(5, 16, 16)
    pixels[:, ::2] = torch.nan
    sample = {"id": "0", "cube": {"pixels": pixels, "wavelengths": NM}}
    model, masker = small(target=Target("none")), Masker(Uniform(), Count(20))
    found = reconstruction_error(model, [sample], masker).modalities["cube"]
    batch = collate([sample], model.tokenizers)
    with torch.no_grad():
        wanted = Reconstruction(masker)(model, batch, Step())["cube"].value().item()
    assert found.error == pytest.approx(wanted, rel=1e-4)


def test_the_mean_of_a_pixel_is_that_of_the_samples_that_have_it() -> None:
    bright, dim = torch.full((5, 16, 16), 0.4), torch.full((5, 16, 16), 0.2)
    dim[:, ::2] = torch.nan
    train = [
        {"id": str(row), "cube": {"pixels": pixels, "wavelengths": NM}}
        for row, pixels in enumerate((bright, dim))
    ]
    masker = Masker(Uniform(), Count(20))
    plain = reconstruction_error(small(target=Target("none")), train[:1], masker, train=train)
    assert plain.modalities["cube"].of_mean == pytest.approx((0.4 - 0.3) ** 2 / 2)
    normed = reconstruction_error(small(target=Target("patch")), train, masker, train=train)
    assert normed.modalities["cube"].of_mean == pytest.approx(0.0, abs=1e-6)  # even patches


def test_zero_answers_to_normalised_targets_cost_one_less_than_one() -> None:
    patches = SpectralPatches(size=16, patch=16, bands=12, group=12)
    adapter = SpectralAdapter(patches, 16, 16, Target("patch", epsilon=1e-12))
    error = adapter.error(torch.zeros(5, 3072), torch.rand(5, 3072))
    torch.testing.assert_close(error, torch.full((5,), 3071 / 3072))


def test_any_order_of_bands_gives_the_same_latents() -> None:
    model, order = small(), [4, 2, 0, 3, 1]
    sample = cube(7)
    turned = {
        "pixels": sample["pixels"][order],
        "wavelengths": tuple(NM[place] for place in order),
    }
    torch.testing.assert_close(
        model.encode(batch_of(turned)).mean(), model.encode(batch_of(sample)).mean()
    )


def test_absent_bands_change_nothing() -> None:
    """A subset is encoded as if the tokenizer had been made for it."""
    model, subset = small(), cube(8, NM[1:4])
    alone = model.encode(batch_of(subset))
    assert alone.tokens.shape[1] == 3 * 16
    together = model.encode(batch_of(cube(9), subset)).mean()
    torch.testing.assert_close(together[1:], alone.mean())


def test_more_bands_than_slots_and_unseen_wavelengths_can_be_encoded() -> None:
    model = small()
    many = cube(1, tuple(400.0 + 50 * band for band in range(9)))
    assert model.encode(batch_of(many)).tokens.shape == (1, 9 * 16, 48)


def test_nearby_wavelengths_have_nearby_places() -> None:
    position = SpectralAdapter(PATCHES, 64, 64).position
    coords = torch.zeros(4, 4)
    coords[:, 2], coords[:, 3] = torch.tensor([842.0, 865.0, 1610.0, 443.0]), -1
    place = position.spectrum(coords)
    near, far, farther = (place[0] - place[1:]).norm(dim=1).tolist()
    assert 0 < near < far
    assert near < farther


def test_hidden_content_does_not_leak() -> None:
    model, batch = small(), batch_of(cube(1), cube(2))
    tokens = model.tokenize(batch)
    masking = Masker(ChannelPatch(), Natural())(
        tokens.exists, Step().generators(batch.sample_ids, "masking"), model.context(tokens)
    )
    before = model.encode_visible(tokens, masking).mean()
    hidden = ~masking.visible[..., None]
    part = tokens.modalities["cube"]
    changed = Tokens(
        torch.where(hidden, part.values + 5, part.values),
        part.coords,
        part.rows,
        part.valid,
        part.grid,
    )
    after = model.encode_visible(
        type(tokens)(tokens.size, {"cube": changed}, tokens.slots), masking
    ).mean()
    assert torch.equal(before, after)


def test_channel_masking_equals_encoding_what_is_left() -> None:
    """The padding that a varying count brings changes nothing."""
    model, sample = small(SpectralPatches(size=16, patch=4, bands=5)), cube(3)
    batch = batch_of(sample, patches=SpectralPatches(size=16, patch=4, bands=5))
    tokens = model.tokenize(batch)
    for seed in range(5):
        masking = Masker(ChannelPatch(0.0, 1.0), Natural())(
            tokens.exists, Step(seed).generators(["0"], "masking"), model.context(tokens)
        )
        left = masking.visible.view(5, 16)[:, 0].nonzero().flatten().tolist()
        rest = {
            "pixels": sample["pixels"][left],
            "wavelengths": [NM[band] for band in left],
        }
        torch.testing.assert_close(
            model.encode_visible(tokens, masking).mean(),
            model.encode(batch_of(rest)).mean(),
        )


@pytest.mark.parametrize("rule", [Uniform(), Tied((0,)), Tied((1, 2))])
def test_a_few_steps_lower_the_loss(rule: Any) -> None:
    torch.manual_seed(0)
    patches = SpectralPatches(size=16, patch=4, bands=4)
    batch = batch_of(*(cube(seed, NM[:4]) for seed in range(4)), patches=patches)
    recipe = mae(
        {"cube": patches}, width=32, depth=1, heads=2, decoder_width=32, decoder_depth=1,
        decoder_heads=2, rule=rule, normalise=False,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(recipe.model.parameters(), lr=3e-3)
    losses = []
    for index in range(30):
        loss = recipe.objective(recipe.model, batch, Step(0, 0, index))["cube"].value()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_the_models_target_reaches_the_adapter() -> None:
    recipe = mae({"cube": PATCHES}, width=32, depth=1, heads=2, decoder_heads=4)
    adapter = recipe.model.adapter("cube")
    assert isinstance(adapter, SpectralAdapter)
    assert adapter.target == Target("patch")


def test_save_and_load(tmp_path: Path) -> None:
    patches = SpectralPatches(size=16, patch=4, bands=6, wavelengths=NM, names=("VV", "VH"))
    adapter = SpectralAdapter(patches, 48, 32, projections="bands", anchors=(500.0, 900.0))
    model = small(patches, adapters={"cube": adapter})
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    batch = batch_of(cube(4), patches=patches)
    assert again.tokenizers == model.tokenizers
    torch.testing.assert_close(again.encode(batch).mean(), model.encode(batch).mean())


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_choose_bands_by_wavelength() -> None:
    patches = SpectralPatches(size=8, patch=4, bands=5, mean=0.5, std=0.25)
    pixels = torch.zeros(5, 8, 8)
    pixels[3], pixels[2], pixels[1] = 1.0, 0.5, 0.0  # red, green, blue
    tokens = tokens_of({"pixels": pixels, "wavelengths": NM}, patches=patches)
    assert patches.picture(tokens)[0, 0].tolist() == [255, 128, 0]
    shown = torch.ones(20, dtype=torch.bool)
    shown[3 * 4] = False  # the red band's first patch
    picture = patches.picture(tokens, shown)
    assert picture[0, 0].tolist() == [128, 128, 0]
    assert picture[0, 7].tolist() == [255, 128, 0]
    infrared = SpectralPatches(size=8, patch=4, bands=5, colours=(842.0, 665.0, 560.0))
    assert np.array_equal(infrared.picture(tokens)[0, 0], [0, 255, 128])
