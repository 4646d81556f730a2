"""Whole modalities answered from the others by the models of a run: numbers and a picture."""

from collections.abc import Mapping
from typing import Any

from multimask import evaluation, load, pictures
from multimask.cli.data import as_batch
from multimask.cli.study import RunFlags, Study
from multimask.evaluation.crossmodal import scorable

DRAWN = 2  # test samples in crossmodal.png


def crossed(flags: RunFlags, study: Study) -> dict[str, Any]:
    """Every modality hidden whole and answered from the others, by every seed's model."""
    found: dict[str, list[evaluation.Crossed]] = {}
    model = load(flags.out / "model")
    if not any(scorable(model, name) for name in model.slots) or len(model.slots) < 2:
        print(
            f"no modality is answered from others: {flags.method} does not answer in their scale."
        )
        return {}
    for seed in range(flags.seed, flags.seed + flags.seeds):
        folder = flags.out if seed == flags.seed else flags.out / f"seed-{seed}"
        errors = evaluation.crossmodal_errors(
            load(folder / "model"),
            study.test,
            study.train,
            workers=flags.workers,
            device=flags.device,
        )
        for name, made in errors.items():
            found.setdefault(name, []).append(made)
    batch, _ = as_batch(study.test, study.modalities, most=DRAWN)
    drawn = pictures.answered_rows(model, batch, list(found))
    numbers = {name: compared(made) for name, made in found.items()}
    print(told(numbers))
    if drawn is not None:
        pictures.save(drawn, flags.out / "crossmodal.png")
        print(f"look at           {flags.out / 'crossmodal.png'}")
    return numbers


def compared(made: list[evaluation.Crossed]) -> dict[str, Any]:
    """Mean errors of a modality, by seed, and how much worse the controls are."""
    answered = [each.answered for each in made]
    numbers: dict[str, Any] = {"measure": made[0].measure, "items": len(made[0].ids)}
    numbers["error"] = sum(float(errors.mean()) for errors in answered) / len(made)
    numbers["error_by_seed"] = [float(errors.mean()) for errors in answered]
    for control in ("of_mean", "shuffled"):
        others = [getattr(each, control) for each in made]
        between = evaluation.paired_bootstrap(others, answered)
        numbers[control] = sum(float(errors.mean()) for errors in others) / len(made)
        numbers[f"{control}_worse_by"] = between.mean
        numbers[f"{control}_interval"] = [between.low, between.high]
    return numbers


def told(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "",
        "each modality hidden whole and answered from the others, error beside two controls",
        f"  {'':<12}{'error':<9}{'training means, worse by':<34}{'other pairs, worse by':<34}seeds",
    ]
    for name, found in numbers.items():
        cells = []
        for control in ("of_mean", "shuffled"):
            low, high = found[f"{control}_interval"]
            worse = f"{found[f'{control}_worse_by']:+.3f} [{low:+.3f}, {high:+.3f}]"
            cells.append(f"{found[control]:.3f}  {worse}")
        by_seed = ", ".join(f"{error:.3f}" for error in found["error_by_seed"])
        lines.append(f"  {name:<12}{found['error']:<9.3f}{cells[0]:<34}{cells[1]:<34}{by_seed}")
    items = sorted({found["items"] for found in numbers.values()})
    kinds = sorted({found["measure"] for found in numbers.values()})
    lines.append(
        f"  {' and '.join(kinds)}; 95 % intervals over {', '.join(map(str, items))} test items"
    )
    return "\n".join(lines)
