"""MAE's acceptance checks: its targets, its loss in closed form, no leaks, and that it learns.

Parity with a published implementation is in test_parity_vitmae, mask statistics in test_masking.
"""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from multimask.evaluation import embed, linear_probe, reconstruction_error, shows_learning
from multimask.methods.mae import mae
from multimask.methods.recipe import Recipe
from multimask.modalities.image import ImagePatches
from multimask.modality import collate
from multimask.tokens import Batch, Masking, Part, Sample, Step


def small(patches: ImagePatches, normalise: bool = True) -> Recipe:
    torch.manual_seed(0)
    return mae(
        {"photo": patches},
        width=48,
        depth=2,
        heads=3,
        decoder_width=32,
        decoder_depth=1,
        decoder_heads=2,
        normalise=normalise,
    )


def batch_of(images: torch.Tensor, masking: Masking | None = None) -> Batch:
    size = len(images)
    ids, part = tuple(map(str, range(size))), Part(images, torch.arange(size))
    return Batch(size, ids, {}, {"photo": part}, masking)


# --- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "patch", "channels"), [(32, 8, 3), ((6, 20), (3, 5), 4)])
def test_patches_put_together_are_the_image(
    size: int | tuple[int, int], patch: int | tuple[int, int], channels: int
) -> None:
    patches = ImagePatches(size, patch, channels, mean=0.0, std=1.0)
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(2, channels, height, width)
    assert torch.equal(patches.untokenize(patches(Part(images, torch.arange(2)))), images)


def test_targets_run_over_rows_then_columns_then_channels() -> None:
    patches = ImagePatches(4, 2, mean=0.0, std=1.0)
    flat = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(1, 3, 4, 4)
    values = patches(Part(flat, torch.arange(1))).values
    assert torch.equal(values[0, 0], torch.tensor([1.0, 2.0, 3.0] * 4))

    numbered = torch.arange(48.0).view(1, 3, 4, 4)  # 16 * channel + 4 * row + column
    values = patches(Part(numbered, torch.arange(1))).values
    assert values[0, 1].tolist() == [2, 18, 34, 3, 19, 35, 6, 22, 38, 7, 23, 39]
    assert values[0, 2].tolist() == [8, 24, 40, 9, 25, 41, 12, 28, 44, 13, 29, 45]


# --- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [16, 4])
def test_answering_nothing_costs_what_the_closed_form_says(patch: int) -> None:
    recipe = small(ImagePatches(32, patch))
    adapter = recipe.model.adapters["photo"]
    torch.nn.init.zeros_(adapter.pred.weight)  # pyright: ignore
    loss = recipe.objective(recipe.model, batch_of(torch.rand(3, 3, 32, 32)), Step())["photo"]
    m = 3 * patch * patch
    # (m - 1) / m, 767 / 768 for 16 pixels: the variance is unbiased; a biased one would give 1
    assert loss.value().item() == pytest.approx((m - 1) / m, rel=1e-4)
    assert loss.count == 3 * math.floor((32 // patch) ** 2 * 0.75)


# --- leaks ----------------------------------------------------------------------------------------


def test_the_encoder_never_sees_a_hidden_pixel() -> None:
    recipe = small(ImagePatches(16, 4))
    model, images = recipe.model.eval(), torch.rand(2, 3, 16, 16)
    tokens = model.tokenize(batch_of(images))
    generators = Step().generators("ab", "masking")
    masking = recipe.objective.masker(tokens.exists, generators, model.context(tokens))

    def pixels(shown: torch.Tensor) -> torch.Tensor:
        cells = shown.view(2, 1, 4, 4).float()
        return torch.nn.functional.interpolate(cells, scale_factor=4) > 0

    def encoded(images: torch.Tensor) -> torch.Tensor:
        latents = model.encode_visible(model.tokenize(batch_of(images)), masking)
        return torch.cat((latents.globals, latents.tokens), dim=1)

    before = encoded(images)
    hidden_changed = torch.where(pixels(masking.visible), images, torch.rand_like(images))
    assert not torch.equal(hidden_changed, images)
    assert torch.equal(encoded(hidden_changed), before)

    one = images.clone()
    row, column = (pixels(masking.visible)[0, 0]).nonzero()[0].tolist()
    one[0, 1, row, column] += 0.5
    after = encoded(one)
    assert (after[0] != before[0]).any(dim=1).all()  # every token of that picture notices
    assert torch.equal(after[1], before[1])


# --- it learns ------------------------------------------------------------------------------------


def digits() -> tuple[list[Sample], np.ndarray, list[Sample], np.ndarray]:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels: two thirds to learn from."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pictures = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    samples: list[Sample] = [{"id": str(i), "photo": p} for i, p in enumerate(pictures)]
    order = np.random.default_rng(0).permutation(len(samples))
    train, test = order[:1200], order[1200:]
    return [samples[i] for i in train], labels[train], [samples[i] for i in test], labels[test]


def shuffled(samples: list[Sample], steps: int, recipe: Recipe) -> Iterator[tuple[int, Batch]]:
    per_epoch = len(samples) // 64
    for epoch in range(-(-steps // per_epoch)):
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(64)[:per_epoch]:
            chosen = [samples[row] for row in rows.tolist()]
            yield epoch, collate(chosen, recipe.model.tokenizers)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_learns_handwritten_digits() -> None:
    train, labels, test, truth = digits()
    recipe = small(ImagePatches(8, 2, channels=1), normalise=False)
    model, steps, warmup = recipe.model, 2000, 200

    def probe() -> np.ndarray:
        features = [embed(model, part).features for part in (train, test)]
        return linear_probe(features[0], labels, features[1], truth).correct

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2

    at_first = probe()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for _, (epoch, batch) in zip(range(steps), shuffled(train, steps, recipe), strict=False):
        loss = recipe.objective(model, batch, Step(0, epoch))["photo"].value()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    error = reconstruction_error(model, test, recipe.objective.masker, train=train)
    ratio, learned = error.modalities["photo"].ratio, shows_learning([probe()], [at_first])
    print(f"hidden pixels: {ratio:.3f} of the means' error; {learned}")
    assert ratio is not None
    assert ratio < 0.85
    assert learned.pretrained[0] > 0.80
    assert learned.learned
