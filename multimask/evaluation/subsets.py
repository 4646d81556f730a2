"""What features are worth for every set of modalities that they may be made of."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from multimask.ensembles import subsets_of
from multimask.evaluation.embeddings import Embeddings, embed
from multimask.evaluation.linear import linear_probe
from multimask.evaluation.neighbours import knn
from multimask.filling import UnseenModalities
from multimask.model import MaskedModel
from multimask.tokens import Samples, sample_generator

Right = Bool[np.ndarray, " items"]


@dataclass(frozen=True)
class SubsetScore:
    """One set of modalities: which test items are told right by features of just these.

    `probe` and `knn` learned from features of the same modalities, `carried` is the probe that
    learned from features of all modalities and is now asked about these, `mixed` one that learned
    from each training row by a random set of what it has. `items` are the ids of the test rows that
    have these modalities; None for all scores where too few rows do. `seen` says whether the
    encoder read just these in training, None where nobody noted. `tuned` is what a fine-tuned
    model's own head says, None where the model has none.
    """

    names: tuple[str, ...]
    items: tuple[str, ...]
    probe: Right | None
    knn: Right | None
    carried: Right | None
    seen: bool | None
    mixed: Right | None = None
    tuned: Right | None = None


def subset_scores(
    model: MaskedModel,
    train: Samples,
    test: Samples,
    label: str,
    subsets: Sequence[Sequence[str]] | None = None,
    *,
    pool: str = "mean",
    workers: int = 0,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> list[SubsetScore]:
    """Scores of each subset, small ones first; by default of all subsets.

    Rows without the label are left out. Nothing is trained but the probes. Where the samples have
    no column of one of the model's modalities nothing is carried: no row has all of them.
    Raises: ValueError for unknown modalities, and a test class that no training row has.
    """
    names = tuple(model.slots)
    wanted = subsets_of(names) if subsets is None else [tuple(sorted(set(s))) for s in subsets]
    found: dict[tuple[str, ...], tuple[Embeddings, Embeddings]] = {}
    listed = all(set(names) <= set(part.columns) for part in (train, test))
    whole = [names] if listed else []
    for subset in dict.fromkeys([*wanted, *whole]):
        rows = [rows_with(part, subset, label) for part in (train, test)]
        if min(map(len, rows)) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnseenModalities)  # `seen` says it
            learned, asked = (
                embed(
                    model,
                    chosen(part, some),
                    workers=workers,
                    device=device,
                    pool=pool,
                    modalities=subset,
                )
                for part, some in zip((train, test), rows, strict=True)
            )
        found[subset] = learned, asked
    carried = asked_of_all(found, found[names][0], label, seed) if names in found else {}
    mixed = asked_of_all(found, of_some(found, seed), label, seed) if found else {}
    scores = []
    for subset in wanted:
        seen = None if model.seen is None else subset in model.seen
        if subset not in found:
            scores.append(SubsetScore(subset, (), None, None, None, seen))
            continue
        learned, asked = found[subset]
        pairs = [x for made in (learned, asked) for x in (made.features, made.labels[label])]
        probed, voted = linear_probe(*pairs, seed=seed).correct, knn(*pairs).correct
        others = carried.get(subset), seen, mixed[subset]
        scores.append(SubsetScore(subset, asked.ids, probed, voted, *others))
    return scores


Found = Mapping[tuple[str, ...], tuple[Embeddings, Embeddings]]  # of training and test rows


def of_some(found: Found, seed: int) -> Embeddings:
    """Every training row once, by a random one of the subsets that it has."""
    options: dict[str, list[tuple[Embeddings, int]]] = {}
    for learned, _ in found.values():
        for place, name in enumerate(learned.ids):
            options.setdefault(name, []).append((learned, place))
    picked = []
    for name, ways in options.items():
        generator = sample_generator(seed, 0, name, "subset")
        picked.append(ways[int(torch.randint(len(ways), (), generator=generator))])
    features = np.stack([made.features[place] for made, place in picked])
    names = set.intersection(*(set(made.labels) for made, _ in picked))
    labels = {n: np.array([made.labels[n][place] for made, place in picked]) for n in names}
    return Embeddings(tuple(options), features, labels, ())


def asked_of_all(
    found: Found, learned: Embeddings, label: str, seed: int
) -> dict[tuple[str, ...], Right]:
    """One probe, asked about the features of every subset."""
    asked = {subset: made for subset, (_, made) in found.items()}
    right = linear_probe(
        learned.features,
        learned.labels[label],
        np.concatenate([made.features for made in asked.values()]),
        np.concatenate([made.labels[label] for made in asked.values()]),
        seed=seed,
    ).correct
    ends = np.cumsum([len(made.ids) for made in asked.values()])
    return dict(zip(asked, np.split(right, ends[:-1]), strict=True))


def rows_with(samples: Samples, names: Sequence[str], label: str) -> tuple[int, ...]:
    """Rows that have all of these modalities and the label."""
    from multimask.training.reading import blanks  # training stands on evaluation

    unknown = sorted({*names, label} - set(samples.columns))
    if unknown:
        raise ValueError(
            f"subset_scores: the samples have no column {unknown[0]!r}; they have "
            f"{', '.join(sorted(samples.columns))}."
        )
    lacking = [blanks(samples.columns[name]) for name in (*names, label)]
    return tuple(np.flatnonzero(~np.any(lacking, axis=0)).tolist())


def chosen(samples: Samples, rows: Sequence[int]) -> Samples:
    from multimask.training.reading import Rows

    return Rows(samples, np.array(rows))
