"""Channels told apart by name alone, marked as missing, or never seen in training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from multimask.datasets.formats.geokeys import write_geotiff
from multimask.datasets.formats.spectral import SpectralReader
from multimask.masking import Count, Masker, Uniform
from multimask.methods.mae import mae
from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.spectral_adapter import SpectralAdapter
from multimask.objectives import Reconstruction
from multimask.tokens import Masking, Step
from small_cubes import NM, PATCHES, batch_of, small


def test_swapped_channel_vectors_swap_the_answers() -> None:
    """Where no pixel of two named channels is seen, only their vectors tell them apart."""
    patches = SpectralPatches(size=8, patch=4, bands=4, names=("a", "b", "c", "d"))
    sample = {"pixels": torch.rand(4, 8, 8), "names": patches.names}
    batch, model = batch_of(sample, patches=patches), small(patches)
    adapter = model.adapter("cube")
    assert isinstance(adapter, SpectralAdapter)
    tokens = model.tokenize(batch)
    ids = torch.arange(16)[None]
    masking = Masking(ids[:, :8], ids[:, 8:], torch.ones(1, 16, dtype=torch.bool))
    latents = model.encode_visible(tokens, masking)

    def answers() -> torch.Tensor:
        features = model.decode(tokens, latents, masking)
        return model.predict(tokens, features, masking)["cube"][0].view(2, 4, 16)

    before = answers().detach().clone()
    with torch.no_grad():
        vectors = adapter.decoder_position.channel
        assert vectors is not None
        vectors[[2, 3]] = vectors[[3, 2]].clone()
    after = answers()
    assert not torch.allclose(before[0], before[1])
    torch.testing.assert_close(after, before.flip(0))


def test_the_number_that_stands_for_missing_never_reaches_a_loss(tmp_path: Path) -> None:
    """The same pixels under two nodata numbers give the same loss, to the bit."""
    pixels = np.random.default_rng(0).normal(size=(4, 16, 16)).astype(np.float32)
    gone = np.zeros(pixels.shape, bool)
    gone[:, :6, :5] = True
    gone[2] = True
    losses = []
    for nodata in (-9999.0, 1e30):
        file = tmp_path / f"{nodata}.tif"
        write_geotiff(file, np.where(gone, nodata, pixels), None, NM[:4], nodata=nodata)
        batch = batch_of(SpectralReader().read(file))
        recipe = mae({"cube": PATCHES}, width=32, depth=1, heads=2, decoder_heads=4, ratio=0.9)
        recipe.model.load_state_dict(losses[0][1] if losses else recipe.model.state_dict())
        term = recipe.objective(recipe.model, batch, Step())["cube"]
        losses.append((term.total, recipe.model.state_dict()))
        assert term.total.isfinite()
    assert torch.equal(losses[0][0], losses[1][0])


def test_training_on_some_bands_answers_for_wavelengths_never_seen() -> None:
    """Spectra are smooth, so a place on the wavelength axis is worth something off the bands."""
    torch.manual_seed(0)
    patches = SpectralPatches(size=8, patch=4, bands=7)
    seen = (450.0, 550.0, 650.0, 750.0, 850.0, 950.0, 1050.0)
    between = (500.0, 600.0, 700.0, 800.0, 900.0, 1000.0)

    def scenes(nm: tuple[float, ...], count: int, seed: int) -> list[dict[str, Any]]:
        draw = torch.Generator().manual_seed(seed)
        slope = torch.randn(count, 1, 1, 1, generator=draw)
        ramp = (torch.tensor(nm).view(-1, 1, 1) - 750) / 300
        levels = (slope * ramp).expand(count, len(nm), 8, 8)
        return [{"pixels": pixels, "wavelengths": nm} for pixels in levels]

    recipe = mae(
        {"cube": patches}, width=32, depth=1, heads=2, decoder_width=32, decoder_depth=1,
        decoder_heads=2, normalise=False, ratio=0.5,
    )  # fmt: skip
    model, masker = recipe.model, Masker(Uniform(), Count(10, 14))
    unseen = batch_of(*scenes(between, 32, seed=9), patches=patches)

    def error() -> float:
        model.eval()
        term = Reconstruction(masker)(model, unseen, Step())["cube"]
        model.train()
        return term.value().item()

    before = error()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for index in range(60):
        batch = batch_of(*scenes(seen, 8, seed=index), patches=patches)
        loss = recipe.objective(model, batch, Step(0, 0, index))["cube"].value()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < 0.3 * before
