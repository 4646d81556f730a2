"""What features are worth, by several measures: each gives a number a test item or trial."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Num, Shaped

from multimask import evaluation
from multimask.cli.study import RunFlags, Study
from multimask.model import MaskedModel

Score = Bool[np.ndarray, " items"] | Num[np.ndarray, " items"]
Scores = Mapping[str, Score]  # by measure
QUERIES = 20  # rows of a class that a few-shot trial asks for, where there are as many


@dataclass(frozen=True)
class Judged:
    """One model under judgement, and its frozen features of all labelled rows."""

    model: MaskedModel
    study: Study
    flags: RunFlags
    seed: int
    train: evaluation.Embeddings
    test: evaluation.Embeddings

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Training features and labels, test features and labels."""
        return (*labelled(self.train, self.study), *labelled(self.test, self.study))


@dataclass(frozen=True)
class Measure:
    """`title` for a person. `scores` gives right or wrong for each test item, or the accuracy of
    each trial, in an order that is the same for every model. `check` raises ValueError before
    anything is trained when the data do not allow it."""

    title: str
    scores: Callable[[Judged], Score]
    check: Callable[[RunFlags, Study], None] = lambda flags, study: None
    unit: str = "test items"


def labelled(embeddings: evaluation.Embeddings, study: Study) -> tuple[np.ndarray, np.ndarray]:
    return embeddings.features, embeddings.labels[str(study.label)]


def probe(judged: Judged) -> Score:
    return evaluation.linear_probe(*judged.rows, seed=judged.seed).correct


def knn(judged: Judged) -> Score:
    correct = evaluation.knn(*judged.rows).correct
    assert correct is not None  # labels were given
    return correct


def svm(judged: Judged) -> Score:
    return evaluation.svm(*judged.rows, seed=judged.seed).correct


def few_shot(judged: Judged) -> Score:
    features, labels = labelled(judged.test, judged.study)
    ways, queries = trial_size(labels, judged.flags)
    made = evaluation.few_shot(
        features, labels, ways, judged.flags.shots, queries=queries, seed=judged.seed
    )
    return np.array(made.accuracies)


def trial_size(
    labels: Shaped[np.ndarray, " n"] | Sequence[object], flags: RunFlags
) -> tuple[int, int]:
    """How many classes a trial holds, and how many rows of each it asks for: fewer than wished
    where the test rows are few. Raises ValueError when not even two classes and one row are left.
    """
    known = np.array([str(label) for label in labels if label is not None])
    counts = np.sort(np.unique(known, return_counts=True)[1])[::-1]
    ways = min(flags.ways, len(counts))
    queries = 0 if ways < 2 else min(QUERIES, int(counts[ways - 1]) - flags.shots)
    if queries < 1:
        raise ValueError(
            f"--evaluate few-shot: {flags.ways} classes with more than {flags.shots} test rows "
            f"each are needed; the largest have {', '.join(map(str, counts[: flags.ways]))}. "
            "Lower --ways or --shots, or hold out more rows."
        )
    return ways, queries


def check_few_shot(flags: RunFlags, study: Study) -> None:
    trial_size(study.test.columns[str(study.label)], flags)


def finetuned(judged: Judged) -> Score:
    from multimask.finetuning import Finetuning, finetune

    flags, study = judged.flags, judged.study
    # short runs: blended samples need far longer ones than a comparison does
    how = Finetuning(lr=flags.finetune_lr, lr_per=None, mixup=0.0, cutmix=0.0)
    made = finetune(
        judged.model,
        study.train,
        how,
        label=str(study.label),
        epochs=flags.finetune_epochs,
        batch_size=flags.batch_size,
        seed=judged.seed,
        workers=flags.workers,
        device=flags.device,
        precision=flags.precision,
        max_bad=flags.max_bad,
    )
    told = made.classifier.predict(study.test, workers=flags.workers, device=flags.device)
    return told.correct(str(study.label))


MEASURES: dict[str, Measure] = {
    "probe": Measure("linear probe", probe),
    "knn": Measure("nearest neighbours", knn),
    "svm": Measure("linear SVM", svm),
    "few-shot": Measure("few-shot", few_shot, check_few_shot, unit="trials"),
    "finetune": Measure("fine-tuned", finetuned),
}
ALWAYS = ("probe", "knn")


def asked(flags: RunFlags, study: Study) -> tuple[str, ...]:
    """The measures of a run. Raises ValueError for one that is unknown or cannot be taken."""
    names = (*ALWAYS, *(name for name in flags.evaluate if name not in ALWAYS))
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"--evaluate {name}: measures are {', '.join(MEASURES)}.")
        if study.label is None and name in flags.evaluate:
            raise ValueError(
                f"--evaluate {name}: needs labels, and the data have no column "
                f"{flags.label!r}; name theirs with --label."
            )
        if study.label is not None:
            MEASURES[name].check(flags, study)
    return names


def scores(model: MaskedModel, study: Study, flags: RunFlags, seed: int) -> Scores:
    """All the run's measures of one model."""
    train, test = (
        evaluation.embed(model, samples, workers=flags.workers, device=flags.device)
        for samples in (study.train, study.test)
    )
    judged = Judged(model, study, flags, seed, train, test)
    return {name: MEASURES[name].scores(judged) for name in asked(flags, study)}
