"""The spectral kind: what a token holds, which tokens exist, and that bands may come and go."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import multimask
from multimask.checkpoints import load
from multimask.datasets.formats.geokeys import write_geotiff
from multimask.datasets.formats.spectral import SpectralReader
from multimask.evaluation import raw_means, raw_values, reconstruction_error
from multimask.masking import Count, Masker, Natural, Ratio, Slab, Tied, Uniform, masker_for
from multimask.methods.mae import mae
from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.spectral_adapter import SpectralAdapter
from multimask.modalities.spectral_masking import ChannelPatch
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.objectives import Reconstruction
from multimask.testing import check_masker, check_modality
from multimask.tokens import BadSample, Masking, Part, Step, Tokens

NM = (443.0, 490.0, 560.0, 665.0, 842.0)
PATCHES = SpectralPatches(size=16, patch=4, bands=6, names=("VV", "VH"))


def cube(seed: int, nm: tuple[float, ...] = NM, size: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"pixels": torch.rand(len(nm), size, size, generator=generator), "wavelengths": nm}


def tokens_of(*cubes: dict[str, Any], patches: SpectralPatches = PATCHES) -> Tokens:
    return patches(Part(patches.collate(cubes), torch.arange(len(cubes))))


def batch_of(*cubes: dict[str, Any], patches: SpectralPatches = PATCHES) -> multimask.Batch:
    samples = [{"id": str(row), "cube": item} for row, item in enumerate(cubes)]
    return collate(samples, {"cube": patches})


def small(patches: SpectralPatches = PATCHES, **arguments: Any) -> MaskedModel:
    torch.manual_seed(0)
    made = MaskedModel(
        {"cube": patches}, width=48, depth=2, decoder_width=32, decoder_heads=4, **arguments
    )
    return made.eval()


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_is_one_patch_of_one_band_with_its_wavelength() -> None:
    sample = cube(1)
    tokens = tokens_of(sample)
    assert tokens.grid == (6, 4, 4)
    token = 3 * 16 + 1 * 4 + 2  # band 3, patch row 1, patch column 2
    assert torch.equal(tokens.values[0, token], sample["pixels"][3, 4:8, 8:12].flatten())
    assert tokens.coords[0, token].tolist() == [6.0, 10.0, 665.0, -1.0]
    assert tokens.valid is not None
    assert tokens.valid[0].sum() == 5 * 16  # the sixth band is a slot that nothing fills


def test_pixels_come_back_exactly_also_those_beside_missing_ones() -> None:
    sample = cube(2)
    sample["pixels"][1, :2, 5] = torch.nan
    patches = SpectralPatches(size=16, patch=4, bands=5, mean=0.3, std=2.0)
    back = patches.untokenize(tokens_of(sample, patches=patches))
    torch.testing.assert_close(back["pixels"][0], sample["pixels"], equal_nan=True)
    assert back["wavelengths"].tolist() == [list(NM)]


def test_groups_hold_neighbouring_bands() -> None:
    patches = SpectralPatches(size=8, patch=4, bands=6, group=3)
    sample = cube(3, (400.0, 500.0, 600.0, 700.0, 800.0, 900.0), size=8)
    tokens = tokens_of(sample, patches=patches)
    assert tokens.values.shape == (1, 8, 48)
    assert tokens.coords[0, 4, 2:5].tolist() == [700.0, 800.0, 900.0]
    wanted = sample["pixels"][3:, :4, :4].permute(1, 2, 0).flatten()
    assert torch.equal(tokens.values[0, 4], wanted)
    back = patches.untokenize(tokens)["pixels"][0]
    torch.testing.assert_close(back, sample["pixels"])


@pytest.mark.parametrize(("missing", "exists"), [(0, True), (8, True), (9, False), (16, False)])
def test_a_token_exists_when_at_least_half_of_it_does(missing: int, exists: bool) -> None:
    sample = cube(4)
    patch = sample["pixels"][2, :4, :4].clone().flatten()
    patch[:missing] = torch.nan
    sample["pixels"][2, :4, :4] = patch.view(4, 4)
    tokens = tokens_of(sample)
    assert tokens.valid is not None
    assert bool(tokens.valid[0, 2 * 16]) == exists
    assert bool(tokens.valid[0, 2 * 16 + 1])


def test_samples_of_other_sizes_stand_in_one_batch() -> None:
    tokens = tokens_of(cube(1), cube(2, size=10), cube(3, NM[:2]))
    assert tokens.valid is not None
    per_band = tokens.valid.view(3, 6, 16).sum(dim=2)
    assert per_band.tolist() == [[16] * 5 + [0], [8] * 5 + [0], [16] * 2 + [0] * 4]


def test_statistics_follow_the_wavelength_not_the_index() -> None:
    patches = SpectralPatches(
        size=4, patch=4, bands=3, wavelengths=(500.0, 600.0), names=("VV",), mean=(1.0, 3.0, -9.0)
    )
    flat = {"pixels": torch.zeros(3, 4, 4), "wavelengths": (600.0, 550.0, torch.nan)}
    tokens = tokens_of({**flat, "names": ["", "", "VV"]}, patches=patches)
    assert tokens.values[0, :, 0].tolist() == [-3.0, -2.0, 9.0]


def test_named_channels_need_no_wavelength() -> None:
    sample = {"pixels": torch.rand(2, 16, 16), "names": ["VH", "VV"]}
    assert tokens_of(sample).coords[0, [0, 16], 2:].tolist() == [[0.0, 1.0], [0.0, 0.0]]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"pixels": torch.rand(3, 16, 16)}, "nothing says what its 3 bands are"),
        ({"pixels": torch.rand(2, 16, 16), "names": ["VV", "HV"]}, "band 1 .'HV'. has no wave"),
        ({"pixels": torch.full((1, 4, 4), torch.inf), "wavelengths": [500.0]}, "infinite"),
        ({"pixels": torch.rand(4, 4), "wavelengths": [500.0]}, "found torch.float32 of .4, 4."),
        ({"pixels": torch.rand(1, 4, 4), "wavelengths": [-5.0]}, "nm above 0"),
        ({"pixels": torch.full((1, 4, 4), torch.nan), "wavelengths": [5.0]}, "missing .NaN or no"),
        ({"wavelengths": [500.0]}, "expected 'pixels'"),
    ],
)
def test_a_broken_sample_is_said_in_one_sentence(sample: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSample, match=message):
        PATCHES.collate([sample])


def test_grouped_bands_must_stand_in_order() -> None:
    patches = SpectralPatches(size=4, patch=4, bands=4, group=2)
    with pytest.raises(BadSample, match="in ascending order"):
        patches.collate([cube(0, (600.0, 500.0), 4)])
    listed = SpectralPatches(size=4, patch=4, bands=2, group=2, wavelengths=(600.0, 500.0))
    assert tokens_of(cube(0, (600.0, 500.0), 4), patches=listed).values.shape == (1, 1, 32)
    with pytest.raises(BadSample, match="as listed in wavelengths"):
        listed.collate([cube(0, (500.0, 600.0), 4)])


@pytest.mark.parametrize(
    "arguments",
    [
        {"bands": 0},
        {"std": 0.0},
        {"mean": (1.0, 2.0)},
        {"names": ("a", "a")},
        {"colours": (0.0,) * 3},
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="SpectralPatches"):
        SpectralPatches(**arguments)


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


# --- bands that come, go, and were never seen -----------------------------------------------------


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


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    "patches",
    [
        SpectralPatches(16, 8, 5, wavelengths=NM, mean=0.4, std=0.3),
        SpectralPatches((16, 24), (8, 4), 5, group=2, wavelengths=NM),
        SpectralPatches(16, 8, 5, wavelengths=NM[:3], names=("VV", "VH"), projections="bands"),
    ],
    ids=["bands", "groups", "projections"],
)
def test_cubes_keep_the_contract(patches: SpectralPatches, missing: bool) -> None:
    height, width = (16, 24) if patches.size == (16, 24) else (16, 16)
    data = list(torch.rand(3, 5, height, width, generator=torch.Generator().manual_seed(0)))
    if missing:
        data[1][0, :9, :7] = torch.nan
    check_modality(patches, data)


@pytest.mark.parametrize("masker", [Masker(ChannelPatch(), Natural()), masker_for(Slab(), 0.7)])
def test_maskers_of_channels_keep_the_contract(masker: Masker) -> None:
    check_masker(masker, {"a": (5, 3, 2), "b": (4, 2, 3)})


def test_a_rule_with_its_own_size_keeps_it() -> None:
    assert masker_for(ChannelPatch(), 0.5) == Masker(ChannelPatch(ratio=0.5), Natural())
    assert masker_for(Uniform(), 0.5) == Masker(Uniform(), Ratio(0.5))
    recipe = mae({"cube": PATCHES}, width=32, depth=1, heads=2, rule=ChannelPatch(), ratio=0.6)
    assert recipe.objective.masker == Masker(ChannelPatch(ratio=0.6), Natural())


def test_controls_take_each_band_for_a_channel() -> None:
    """What is to be had without a model: a mean a band, a number a patch and band, no NaN."""
    patches = SpectralPatches(size=8, patch=4, bands=5, wavelengths=NM)
    pixels = torch.arange(5.0).view(5, 1, 1).expand(5, 8, 8).clone()
    pixels[2, 0, 0] = torch.nan
    samples = [{"id": "a", "cube": {"pixels": pixels, "wavelengths": NM}}]
    means = raw_means(samples, {"cube": patches}).features[0]
    values = raw_values(samples, {"cube": patches}, most=20).features[0]
    wanted = [0.0, 1.0, 2 * 63 / 64, 3.0, 4.0]
    assert means.tolist() == pytest.approx([*wanted, 1.0])  # the last: that it is there
    assert values.shape == (21,)
    assert np.isfinite(values).all()
