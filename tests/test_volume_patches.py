"""Volume tokens: an exact way back, true millimetres, and padding that nothing depends on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor

import multimask
from multimask import MaskedModel, Masker, Ratio, Reconstruction, Step, Uniform, collate
from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.volume_transforms import Crop, Orient, ZScore
from multimask.datasets.volumes import Volume, new_volume
from multimask.modalities.volume import VolumePatches
from multimask.tokens import BadSample, Part

PATCHES = VolumePatches((4, 8, 12), (2, 4, 4), channels=2)
SMALL: dict[str, Any] = {"width": 24, "depth": 2, "heads": 2}
SMALL |= {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def loaded(path: Path) -> Any:
    return nibabel.load(path)


def part(*volumes: Any, tokenizer: VolumePatches = PATCHES) -> Part:
    return Part(tokenizer.collate(list(volumes)), torch.arange(len(volumes)))


def test_tokens_are_cut_in_lattice_order_and_put_together_exactly() -> None:
    data = torch.randn(2, 2, 4, 8, 12)
    tokens = PATCHES(part(*data))
    assert tokens.grid == (2, 2, 3)
    assert tokens.valid is None
    by_hand = data[1, :, 2:4, 4:8, 8:12].permute(1, 2, 3, 0).flatten()  # the last token
    assert torch.equal(tokens.values[1, -1], by_hand)
    assert torch.equal(PATCHES.untokenize(tokens), data)


def test_standardising_has_its_inverse() -> None:
    patches = VolumePatches(4, 2, 2, mean=(10.0, -20.0), std=(4.0, 0.5))
    data = (torch.rand(1, 2, 4, 4, 4) * 100).to(torch.int16)
    tokens = patches(part(*data, tokenizer=patches))
    channels_innermost = tokens.values[0, 0].view(8, 2)
    assert channels_innermost[0, 1] == (float(data[0, 1, 0, 0, 0]) + 20) / 0.5
    torch.testing.assert_close(patches.untokenize(tokens), data.float(), atol=1e-4, rtol=0)


def test_coords_are_the_millimetres_of_patch_centres() -> None:
    affine = np.array([[0, 0, 3.0, 5], [-1.5, 0, 0, 6], [0, 2, 0, 7], [0, 0, 0, 1]])
    volume = new_volume(np.zeros((2, 4, 8, 12), np.float32), affine).tensors()
    tokens = PATCHES(part(volume))
    # first patch: x 0..3, y 0..3, z 0..1
    wanted = affine[:3] @ [1.5, 1.5, 0.5, 1]
    np.testing.assert_allclose(tokens.coords[0, 0], wanted)
    assert PATCHES(part(torch.zeros(2, 4, 8, 12))).coords[0, -1].tolist() == [9.5, 5.5, 2.5]


# --- small volumes --------------------------------------------------------------------------------


def test_padding_makes_no_tokens() -> None:
    small = torch.randn(2, 3, 8, 9)
    tokens = PATCHES(part(torch.randn(2, 4, 8, 12), small))
    assert tokens.valid is not None
    lattice = tokens.valid.view(2, 2, 2, 3)
    assert lattice[0].all()
    # 3 slices hold one whole layer of 2, 9 columns two whole patches of 4
    wanted = torch.zeros(2, 2, 3, dtype=torch.bool)
    wanted[:1, :, :2] = True
    assert torch.equal(lattice[1], wanted)
    assert (tokens.values[1][~tokens.valid[1]] == 0).all()
    back = PATCHES.untokenize(tokens)[1]
    assert torch.equal(back[:, :2, :8, :8], small[:, :2, :8, :8])
    assert (back[:, 2:] == 0).all()


def test_partly_padded_patches_can_repeat_the_border() -> None:
    patches = VolumePatches((4, 8, 12), (2, 4, 4), 2, partial="repeat")
    small = torch.randn(2, 3, 8, 9)
    tokens = patches(part(small, tokenizer=patches))
    assert tokens.valid is not None
    assert tokens.valid.all()  # 3 slices begin the second layer, 9 columns the third patch
    back = patches.untokenize(tokens)[0]
    assert torch.equal(back[:, :3, :8, :9], small)
    assert torch.equal(back[:, 3, :, :9], small[:, 2])


@pytest.mark.parametrize("partial", ["drop", "repeat"])
def test_padding_is_neither_attended_to_nor_scored(partial: Any) -> None:
    torch.manual_seed(0)
    patches = VolumePatches((4, 8, 12), (2, 4, 4), 2, partial=partial)
    model = MaskedModel({"t1": patches}, **SMALL).eval()
    samples = [
        {"id": "whole", "t1": torch.randn(2, 4, 8, 12)},
        {"id": "small", "t1": torch.randn(2, 2, 8, 8)},
    ]
    batch = collate(samples, model.tokenizers)
    objective = Reconstruction(Masker(Uniform(), Ratio(0.5), ragged=True))
    loss = objective(model, batch, Step())["t1"]
    embedded = model.encode(batch).mean()
    poisoned = batch.parts["t1"].data["data"]
    poisoned[1, :, 2:] = 1e6
    poisoned[1, :, :, :, 8:] = -1e6
    again = objective(model, batch, Step())["t1"]
    assert torch.equal(loss.total, again.total)
    assert torch.equal(loss.count, again.count)
    assert torch.equal(embedded, model.encode(batch).mean())
    assert int(loss.count) == 6  # 6 of 12 tokens of the whole; all 4 of the small one are seen


def test_a_small_volume_does_not_notice_its_batch_mates() -> None:
    model = MaskedModel({"t1": PATCHES}, **SMALL).eval()
    small, whole = torch.randn(2, 2, 8, 8), torch.randn(2, 4, 8, 12)
    alone = model.encode(collate([{"id": "a", "t1": small}], model.tokenizers)).mean()
    both = [{"id": "b", "t1": whole}, {"id": "a", "t1": small}]
    together = model.encode(collate(both, model.tokenizers)).mean()
    torch.testing.assert_close(together[1:], alone, atol=1e-6, rtol=1e-5)


def test_hidden_voxels_do_not_leak() -> None:
    model = MaskedModel({"t1": PATCHES}, **SMALL).eval()
    batch = collate([{"id": "a", "t1": torch.randn(2, 4, 8, 12)}], model.tokenizers)
    seen = model.reconstruct(batch, Masker(Uniform(), Ratio(0.5)))
    hidden = seen.target["t1"][0]
    latents = encoded(model, batch, seen.masking)
    values = PATCHES(batch.parts["t1"])
    values.values[0, hidden] = 1e3
    batch.parts["t1"].data["data"].copy_(PATCHES.untokenize(values))
    assert torch.equal(latents, encoded(model, batch, seen.masking))


def encoded(model: MaskedModel, batch: Any, masking: Any) -> Tensor:
    return model.encode_visible(model.tokenize(batch), masking).tokens


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        (
            torch.zeros(1, 4, 8, 12),
            r"expected voxels of shape \(2, z, y, x\), found \(1, 4, 8, 12\)",
        ),
        (torch.zeros(4, 8, 12), "expected voxels of shape"),
        (torch.zeros(2, 4, 8, 13), r"at most \(4, 8, 12\) voxels .* found \(4, 8, 13\)"),
        (torch.full((2, 4, 8, 12), torch.nan), "768 voxels are NaN"),
    ],
)
def test_volumes_that_break_the_contract_are_bad_samples(volume: Tensor, said: str) -> None:
    with pytest.raises(BadSample, match=said):
        PATCHES.collate([volume])


def test_another_spacing_than_the_weights_are_for_is_refused() -> None:
    patches = VolumePatches(4, 2, spacing=(2.0, 1.0, 1.0))
    right, wrong = np.diag([1.005, 1.0, 2.0, 1.0]), np.diag([2.0, 1.0, 1.0, 1.0])
    array = np.zeros((1, 4, 4, 4), np.float32)
    patches.collate([new_volume(array, right).tensors()])
    with pytest.raises(BadSample, match=r"expected voxels of \(2.0, 1.0, 1.0\) mm .* resample"):
        patches.collate([new_volume(array, wrong).tensors()])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 10, "patch": 4}, "multiple of"),
        ({"size": (4, 4), "patch": 2}, "one number or three"),
        ({"partial": "keep"}, "'drop' or 'repeat'"),
        ({"channels": 2, "mean": (0.0,)}, "one number or 2"),
        ({"std": 0.0}, "must be positive"),
        ({"patch": 0}, "at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        multimask_unchecked(**arguments)


def multimask_unchecked(**arguments: Any) -> VolumePatches:
    """Without the type checks that only run in tests."""
    try:
        return VolumePatches(**arguments)
    except Exception as error:
        if "Type-check" in str(error):  # a Literal or a length that the checker refuses first
            raise ValueError("'drop' or 'repeat'; one number or three") from error
        raise


# --- pictures, files, saving ----------------------------------------------------------------------


def test_the_picture_shows_three_slices_upright_at_true_proportions() -> None:
    data = np.zeros((1, 8, 8, 8), np.float32)
    data[0, 7] = 1.0  # the top of the head
    patches = VolumePatches(8, 2)
    volume = new_volume(data, np.diag([1.0, 1.0, 3.0, 1.0])).tensors()
    tokens = patches(part(volume, tokenizer=patches))
    picture = patches.picture(tokens)
    assert picture.shape == (24, 8 + 4 + 8 + 4 + 8, 3)  # 8 slices of 3 mm: 24 rows
    coronal = picture[:, 12:20, 0]
    assert (coronal[:3] == 255).all()  # top
    assert (coronal[3:] == 0).all()
    half = torch.arange(64) < 32
    shown = patches.picture(tokens, half)[:, 12:20]
    assert (shown[:12] == (64, 89, 128)).all()  # the upper half of the head is hidden
    assert (shown[12:] == 0).all()


def test_a_reconstruction_is_written_onto_the_scan(tmp_path: Path) -> None:
    torch.manual_seed(0)
    affine = np.array([[-1.0, 0.1, 0, 40], [0.1, 1, 0, -30], [0, 0, 2, 5], [0, 0, 0, 1]])
    array = np.random.default_rng(0).normal(500, 90, (12, 9, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "scan.nii.gz")
    volume: Volume = VolumeReader(transforms=(Orient(), Crop((4, 8, 12)), ZScore())).read(
        tmp_path / "scan.nii.gz"
    )
    patches = VolumePatches((4, 12, 12), (2, 4, 4))
    model = MaskedModel({"t1": patches}, **SMALL)
    batch = collate([{"id": "a", "t1": volume}], {"t1": patches})
    made = model.reconstruct(batch, Masker(Uniform(), Ratio(0.5)))
    assert int(made.target["t1"].sum()) == 3  # 12 of 18 tokens exist, 9 are seen
    (filled,) = patches.filled(made.restored["t1"], batch.parts["t1"].data)
    assert filled.shape == volume.shape
    write_nifti(tmp_path / "made.nii.gz", volume_with(volume, filled), fill=-1)
    source, written = (loaded(tmp_path / f"{n}.nii.gz") for n in ("scan", "made"))
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    assert written.shape == source.shape
    found, wanted = written.get_fdata(), source.get_fdata()
    seen = found != -1
    assert seen.sum() == 4 * 8 * 12  # what was cropped away is not made up
    unchanged = np.isclose(found, wanted, atol=0.01)
    hidden = int(made.target["t1"].sum()) * 32
    assert (seen & unchanged).sum() == seen.sum() - hidden


def volume_with(volume: Volume, data: Tensor) -> Volume:
    return replace(volume, data=data)


def test_a_model_of_volumes_is_saved_and_loaded(tmp_path: Path) -> None:
    patches = VolumePatches((4, 8, 12), (2, 4, 4), 2, spacing=(2.0, 1.0, 1.0), std=(1.0, 2.0))
    model = MaskedModel({"t1": patches}, **SMALL).eval()
    model.save(tmp_path)
    again = multimask.load(tmp_path)
    assert again.tokenizers["t1"] == patches
    volume = new_volume(np.ones((2, 4, 8, 12), np.float32), np.diag([1.0, 1, 2, 1])).tensors()
    batch = collate([{"id": "a", "t1": volume}], model.tokenizers)
    assert torch.equal(model.encode(batch).mean(), again.encode(batch).mean())


def test_recipes_are_saved_and_loaded(tmp_path: Path) -> None:
    from multimask.methods.bm_mae import bm_mae

    sizes: dict[str, Any] = {"width": 24, "depth": 1, "heads": 2, "mlp": 16}
    sizes |= {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp": 16}
    model = bm_mae({"t1": VolumePatches(8, 4)}, **sizes).model
    cast_table(model).add_(1)  # as if read from a file
    model.save(tmp_path)
    again = multimask.load(tmp_path)
    assert torch.equal(cast_table(model), cast_table(again))


def cast_table(model: Any) -> Tensor:
    return model.adapters["t1"].position.table


def test_mixed_spacings_and_sizes_of_real_scans_go_into_one_batch(shared_data: Path) -> None:
    files = ("hippocampus_t1/images/hippocampus_064.nii.gz", "pgbm_006/t2.nii.gz")
    files = (*files, "tcga_du_7294/t1.nii.gz", "spinal_cord/t2star.nii.gz")
    reader = VolumeReader(transforms=(Orient(), Crop((16, 48, 48), random=False), ZScore()))
    volumes = [reader.read(shared_data / "mri" / file) for file in files]
    assert len({tuple(np.round(v.spacing, 2)) for v in volumes}) == 4
    patches = VolumePatches((16, 48, 48), (4, 12, 12))
    model = MaskedModel({"scan": patches}, **SMALL)
    samples = [{"id": str(i), "scan": v} for i, v in enumerate(volumes)]
    batch = collate(samples, model.tokenizers)
    objective = Reconstruction(Masker(Uniform(), Ratio(0.75), ragged=True))
    term = objective(model, batch, Step())["scan"]
    term.value().backward()
    assert bool(torch.isfinite(term.total))
    for row, volume in enumerate(volumes):
        found = patches.filled(model.tokenize(batch).modalities["scan"], batch.parts["scan"].data)
        torch.testing.assert_close(found[row], volume.data)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
