"""Training: `fit`, and the parts it is made of. Importing this imports Lightning."""

from multimask.training.checkpoints import Checkpoints
from multimask.training.fit import fit
from multimask.training.missing import settled
from multimask.training.mixture import Mixture
from multimask.training.result import FitResult, TrainingError
from multimask.training.sampler import Draw, EpochSampler

__all__ = [
    "Checkpoints",
    "Draw",
    "EpochSampler",
    "FitResult",
    "Mixture",
    "TrainingError",
    "fit",
    "settled",
]
