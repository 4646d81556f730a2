"""Segmentation of volumes: the head's inputs, windows as MONAI's, Dice, and padding."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from multimask import MaskedModel, collate
from multimask.modalities.volume import VolumePatches
from multimask.modalities.volume_dice import dice, voxel_loss
from multimask.modalities.volume_segmentation import Segmenter
from multimask.modalities.volume_windows import sliding_windows
from multimask.tokens import Batch

SMALL: dict[str, Any] = {"width": 24, "depth": 4, "heads": 2, "decoder": False}
PATCHES = VolumePatches((4, 8, 8), (2, 4, 4))


def segmenter(*names: str, classes: int = 3) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(MaskedModel({name: PATCHES for name in names}, **SMALL), classes, width=4)


def batch_of(*samples: dict[str, Tensor]) -> Batch:
    named = [{"id": str(i), **sample} for i, sample in enumerate(samples)]
    return collate(named, {name: PATCHES for name in ("a", "b")})


def test_every_voxel_gets_logits_and_all_weights_learn() -> None:
    model = segmenter("a")
    data = torch.randn(2, 1, 4, 8, 8)
    logits = model(batch_of(*({"a": row} for row in data)))
    assert logits.shape == (2, 3, 4, 8, 8)
    voxel_loss(logits, list(torch.randint(0, 3, (2, 4, 8, 8)))).backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # the embedding that only a pre-training decoder reads, the class token's own last output
    assert all("pred" in name or "decoder" in name for name in still), still


def test_states_of_one_contrast_are_themselves_and_of_two_their_mean() -> None:
    model = segmenter("a", "b").eval()
    a, b = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    batch = batch_of({"a": a}, {"a": a, "b": b})
    latents = model.model.encode(batch, (1,))
    found = model.on_lattice(batch, latents, latents.taps[0])
    alone = model.model.encode(batch_of({"a": a}), (1,)).taps[0]
    assert torch.allclose(found[0], alone[0].T.unflatten(1, (2, 2, 2)), atol=1e-5)
    both = latents.taps[0][1].view(2, 8, -1).mean(0)
    assert torch.allclose(found[1], both.T.unflatten(1, (2, 2, 2)), atol=1e-6)


def test_a_contrast_that_is_missing_changes_nothing_for_others() -> None:
    model = segmenter("a", "b").eval()
    a, b = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        together = model(batch_of({"a": a}, {"b": b}, {"a": a, "b": b}))
        torch.testing.assert_close(together[:1], model(batch_of({"a": a})), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together[1:2], model(batch_of({"b": b})), atol=1e-5, rtol=1e-4)


def test_patches_that_cannot_be_doubled_are_refused() -> None:
    model = MaskedModel({"a": VolumePatches(12, 6)}, **SMALL)
    with pytest.raises(ValueError, match="powers of two"):
        Segmenter(model, 2)


# --- windows --------------------------------------------------------------------------------------


def test_windows_are_put_together_as_monai_does() -> None:
    from monai.inferers.utils import sliding_window_inference

    volume, weights = torch.randn(1, 9, 20, 13), torch.randn(4, 8, 8)

    def at_place(data: Tensor) -> Tensor:  # depends on where in the window a voxel is
        return torch.cat((data * weights, data + weights), dim=1)

    ours = sliding_windows(
        lambda batch: at_place(batch.parts["a"].data["data"]), {"a": volume}, {"a": PATCHES}
    )
    theirs = sliding_window_inference(
        volume[None], (4, 8, 8), 3, at_place, overlap=0.5, mode="gaussian"
    )
    torch.testing.assert_close(ours, torch.as_tensor(theirs)[0], atol=1e-3, rtol=1e-3)


def test_windows_of_a_small_volume_are_padded_and_cut() -> None:
    model = segmenter("a").eval()
    small = torch.randn(1, 2, 12, 5)
    made = sliding_windows(model, {"a": small, "label": 3}, {"a": PATCHES})
    assert made.shape == (3, 2, 12, 5)
    whole = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        direct = model(batch_of({"a": whole}))[0]
    torch.testing.assert_close(sliding_windows(model, {"a": whole}, {"a": PATCHES}), direct)


def test_windows_know_their_place_in_the_body() -> None:
    seen = []

    def watch(batch: Batch) -> Tensor:
        seen.extend(batch.parts["a"].data["affine"][:, :3, 3].tolist())
        return batch.parts["a"].data["data"]

    sliding_windows(watch, {"a": torch.zeros(1, 6, 8, 8)}, {"a": PATCHES}, overlap=0.5)
    assert seen == [[0, 0, 0], [0, 0, 2]]


def test_volumes_on_different_grids_are_refused() -> None:
    sample = {"a": torch.zeros(1, 4, 8, 8), "b": torch.zeros(1, 4, 8, 9)}
    with pytest.raises(ValueError, match="expected volumes on one grid"):
        sliding_windows(segmenter("a", "b"), sample, {"a": PATCHES, "b": PATCHES})


# --- scores ---------------------------------------------------------------------------------------


def test_dice_by_hand() -> None:
    truth = torch.tensor([[[0, 1, 1, 2]]])
    predicted = torch.tensor([[[0, 1, 2, 2]]])
    found = dice(predicted, truth, 4)
    torch.testing.assert_close(found[:2], torch.tensor([2 / 3, 2 / 3]))
    assert math.isnan(found[2])  # nobody says 3
    assert dice(torch.zeros_like(truth), truth, 3).tolist() == [0, 0]


def test_padding_counts_for_nothing_in_the_loss() -> None:
    logits = torch.randn(2, 3, 4, 8, 8)
    labels = [torch.randint(0, 3, (1, 4, 8, 8)), torch.randint(0, 3, (3, 8, 5))]
    loss = voxel_loss(logits, labels)
    logits[1, :, 3:] += 5
    logits[1, :, :, :, 5:] -= 9
    torch.testing.assert_close(loss, voxel_loss(logits, labels))
    perfect = torch.nn.functional.one_hot(labels[0][0], 3).movedim(-1, 0)[None] * 50.0
    assert voxel_loss(perfect, labels[:1]) < 1e-3
