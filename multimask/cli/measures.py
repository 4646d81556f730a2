"""What features are worth, by several measures: each gives a number a test item or trial."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Num, Shaped

from multimask import evaluation
from multimask.cli.study import RunFlags, Study
from multimask.datasets.table import Table
from multimask.model import MaskedModel

Labels = Shaped[np.ndarray, " _"] | Sequence[object]
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
    each trial, in an order that is the same for every model. `check` raises ValueError when the
    test rows' labels do not allow it: asked before anything is trained, and again of the rows that
    could be read."""

    title: str
    scores: Callable[[Judged], Score]
    check: Callable[[RunFlags, Labels], None] = lambda flags, labels: None
    unit: str = "test items"


def labelled(embeddings: evaluation.Embeddings, study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes of the rows that have a class."""
    labels = embeddings.labels[str(study.label)]
    known = has_class(labels)
    return embeddings.features[known], np.array(labels[known].tolist())


def has_class(labels: Labels) -> Bool[np.ndarray, " _"]:
    """Where a label is neither None, NaN nor blank."""
    return np.array([bool(name == name and name not in (None, "")) for name in labels], bool)


def incomparable(train: Labels, test: Labels) -> str | None:
    """Why no probe can learn from rows with these labels and be scored on others; None if one can.

    >>> incomparable(["a", "b", None], ["b", "c"])
    'the training rows lack c'
    """
    known, asked = (
        Counter(np.array(list(labels), object)[has_class(labels)]) for labels in (train, test)
    )
    if not asked:
        return "no test row has a label"
    if lacking := sorted(map(str, set(asked) - set(known))):
        return f"the training rows lack {', '.join(lacking[:5])}"
    for rows, classes in (("training", known), ("test", asked)):
        if len(classes) == 1:
            return f"all {rows} rows are of class {next(iter(classes))}, nothing to tell apart"
    if single := sorted(str(name) for name, count in known.items() if count == 1):
        return (
            f"a single training row is of class {single[0]}, but a probe needs one to fit and one "
            "to choose by"
        )
    return None


def featureless(model: MaskedModel) -> bool:
    """Whether the encoder has no layers: what it gives tells no more than the tokens themselves."""
    return getattr(model.encoder, "depth", None) == 0


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


def trial_size(labels: Labels, flags: RunFlags) -> tuple[int, int]:
    """How many classes a trial holds, and how many rows of each it asks for: fewer than wished
    where the test rows are few. Raises ValueError when not even two classes and one row are left.
    """
    known = np.array([str(name) for name in np.array(list(labels), object)[has_class(labels)]])
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


def check_few_shot(flags: RunFlags, labels: Labels) -> None:
    trial_size(labels, flags)


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
    asked = study.test.select(has_class(study.test.columns[str(study.label)]))
    told = made.classifier.predict(asked, workers=flags.workers, device=flags.device)
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
                f"--evaluate {name}: needs labels, and the data have none under "
                f"{flags.label!r} that can be used; name another column with --label."
            )
        if study.label is not None:
            MEASURES[name].check(flags, study.test.columns[study.label])
    return names


def scores(models: Sequence[MaskedModel], study: Study, flags: RunFlags, seed: int) -> list[Scores]:
    """The run's measures of each model, on the same rows."""
    judged = [
        Judged(
            *(model, study, flags, seed),
            train=embedded(model, study.train, flags),
            test=embedded(model, study.test, flags),
        )
        for model in models
    ]
    names = possible(judged[0])
    return [{name: MEASURES[name].scores(each) for name in names} for each in judged]


def embedded(model: MaskedModel, samples: Table, flags: RunFlags) -> evaluation.Embeddings:
    return evaluation.embed(model, samples, workers=flags.workers, device=flags.device)


def possible(judged: Judged) -> tuple[str, ...]:
    """The measures that the rows which could be read allow; what is left out is said. Damaged files
    may take a class with them, and no training should be lost for it."""
    _, train, _, test = judged.rows
    if (why := incomparable(train, test)) is not None:
        print(f"no probes: of the rows that could be read, {why}.")
        return ()
    names = []
    for name in asked(judged.flags, judged.study):
        try:
            MEASURES[name].check(judged.flags, test)
        except ValueError as error:
            print(f"left out, of the rows that could be read: {error}")
        else:
            names.append(name)
    return tuple(names)
