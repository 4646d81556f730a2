"""Mixup, CutMix and left-out modalities, drawn by each sample for itself.

A sample's partner is another training row, picked by the sample's own generator and read for it, so
neither batches, ranks nor workers change what is mixed. It costs a second reading of a sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Generator

from multimask.modality import Mixes, Tokenizer
from multimask.tokens import BadSample, Sample, Samples
from multimask.training.reading import Draws, Rows

OTHER, SHARE = ".other", ".share"  # behind the label's name: the partner's class, the own share


@dataclass(frozen=True, eq=False)
class Mixing:
    """These rows of samples; drawing one blends it with another.

    mixup (Zhang et al. 2018) averages two samples, cutmix (Yun et al. 2019) pastes a box of one
    into the other; each is the a of the Beta(a, a) that shares are drawn from, 0 for never, and
    with both a coin decides. Samples stay as they are where a modality of theirs cannot be mixed
    (its tokenizer does not say how: `multimask.modality.Mixes`), or the partner lacks it.

    drop: each modality is then left out with this chance; drawn again until some is left.
    """

    samples: Samples
    rows: Int[np.ndarray, " n"]
    tokenizers: Mapping[str, Tokenizer]
    label: str
    mixup: float = 0.8
    cutmix: float = 1.0
    drop: float = 0.0

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0:
            raise ValueError(
                f"finetune: mixup={self.mixup} and cutmix={self.cutmix} must not be negative."
            )
        if not 0 <= self.drop < 1:
            raise ValueError(
                f"finetune: drop={self.drop} is a chance to be left out, at least 0 and below 1."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[int(self.rows[index])]

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        return Rows(self.samples, self.rows).columns

    def with_columns(self, **columns: Sequence[Any]) -> "Mixing":
        whole = Rows(self.samples, self.rows).with_columns(**columns).samples
        return replace(self, samples=whole)

    def draw(self, index: int, generator: Generator) -> Sample:
        # torch has no Beta that takes a generator; an own one also leaves the augmentation alone
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        return self.with_some_left_out(self.blended(index, generator, rng), rng)

    def blended(self, index: int, generator: Generator, rng: np.random.Generator) -> Sample:
        sample = self.read(index, generator)
        if not self.mixup and not self.cutmix:
            return sample
        cuts = bool(self.cutmix) and (not self.mixup or rng.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        share = float(rng.beta(alpha, alpha))
        partner, seed = int(rng.integers(len(self))), int(rng.integers(2**62))
        if not self.can_mix(sample):
            return sample
        try:
            other = self.read(partner, Generator().manual_seed(seed))
        except (BadSample, OSError):
            return sample  # counted and listed when its own turn comes
        return self.mixed(sample, other, share, cuts, seed)

    def with_some_left_out(self, sample: Sample, rng: np.random.Generator) -> Sample:
        present = [name for name in self.tokenizers if sample.get(name) is not None]
        if not self.drop or len(present) < 2:
            return sample
        stays = rng.random(len(present)) >= self.drop
        while not stays.any():
            stays = rng.random(len(present)) >= self.drop
        gone = {name for name, kept in zip(present, stays, strict=True) if not kept}
        return {name: value for name, value in sample.items() if name not in gone}

    def read(self, index: int, generator: Generator) -> Sample:
        row = int(self.rows[index])
        if isinstance(self.samples, Draws):
            return self.samples.draw(row, generator)
        return self.samples[row]

    def can_mix(self, sample: Sample) -> bool:
        present = [name for name in self.tokenizers if sample.get(name) is not None]
        return all(isinstance(self.tokenizers[name], Mixes) for name in present)

    def mixed(self, sample: Sample, other: Sample, share: float, cuts: bool, seed: int) -> Sample:
        """All modalities with the same share and the same box, as if of one thing."""
        present = [name for name in self.tokenizers if sample.get(name) is not None]
        if any(other.get(name) is None for name in present):
            return sample
        made, kept = dict(sample), []
        for name in present:
            tokenizer = self.tokenizers[name]
            assert isinstance(tokenizer, Mixes)  # can_mix said so
            if cuts:
                box = Generator().manual_seed(seed)
                made[name], left = tokenizer.paste(sample[name], other[name], share, box)
            else:
                made[name], left = tokenizer.blend(sample[name], other[name], share), share
            kept.append(left)
        made[f"{self.label}{OTHER}"] = other.get(self.label)
        made[f"{self.label}{SHARE}"] = float(np.mean(kept))
        return made
