"""Raw values: the baselines that a representation has to beat."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from multimask.evaluation import linear_probe, raw_means, raw_values
from multimask.tokens import Part, Sample, Tokens
from small_pictures import PATCHES


def test_raw_means_are_the_means_of_the_channels() -> None:
    bright = torch.stack((torch.full((16, 16), 0.5), torch.full((16, 16), 1.0)))
    samples = [{"day": bright}, {"night": bright}]
    features = raw_means(samples, {"day": PATCHES, "night": PATCHES}).features
    # standardised: (x - .5) / .5; a last column says whether the modality is there
    np.testing.assert_allclose(features, [[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("most", "width"), [(512, 512), (511, 32), (32, 32), (31, 2 * 15 - 6), (1, 2)]
)
def test_raw_values_are_averaged_down_to_a_size(most: int, width: int) -> None:
    samples = [{"day": torch.rand(2, 16, 16)} for _ in range(3)]
    features = raw_values(samples, {"day": PATCHES}, most=most).features
    assert features.shape == (3, width + 1)
    assert np.isfinite(features).all()


@dataclass(frozen=True)
class Pebbles:
    """A set: rows of (place, weight), each a token of two equal weights."""

    token_dim, coord_dim, num_tokens, channels = 2, 1, 3, 1

    def __call__(self, part: Part) -> Tokens:
        return Tokens(part.data[..., 1:].expand(-1, -1, 2), part.data[..., :1], part.rows)


def test_places_of_a_set_are_raw_values_too() -> None:
    samples = [{"day": torch.tensor([[5.0, 1.0], [6.0, 1.0], [10.0, 4.0]])}]
    assert raw_means(samples, {"day": Pebbles()}).features.tolist() == [[2, 7, 1]]
    features = raw_values(samples, {"day": Pebbles()}, most=6).features
    assert features.tolist() == [[1, 5, 1, 6, 4, 10, 1]]


def test_a_set_that_raw_values_win_is_seen() -> None:
    def stripes(count: int, seed: int, trivial: bool) -> tuple[list[Sample], np.ndarray]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 2, (count,), generator=generator)
        pattern = torch.tensor([0.0, 1.0]).repeat(8)
        samples = []
        for label in labels.tolist():
            lines = pattern if torch.rand(1, generator=generator) < 0.5 else 1 - pattern
            picture = lines.expand(2, 16, 16) if label else lines[:, None].expand(2, 16, 16)
            samples.append({"day": picture * 0.5 + 0.1 * label * trivial})
        return samples, labels.numpy()

    for trivial, means, values in ((True, 1.0, 1.0), (False, 0.7, 0.9)):
        (train, labels), (test, truth) = stripes(80, 0, trivial), stripes(80, 1, trivial)
        for raw, limit in ((raw_means, means), (raw_values, values)):
            features = [raw(part, {"day": PATCHES}).features for part in (train, test)]
            accuracy = linear_probe(features[0], labels, features[1], truth).accuracy
            assert accuracy == 1 if trivial else accuracy < limit


def test_raw_values_of_mixed_sizes_are_refused() -> None:
    samples = [{"day": torch.rand(2, 24, 24)}]
    with pytest.raises(ValueError, match=r"'day': a sample has 36 tokens, the tokenizer states 16"):
        raw_values(samples, {"day": PATCHES})
