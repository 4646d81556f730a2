"""multimask: masked pre-training for any kind of data, and mixtures with holes in them.

Every modality becomes tokens; a masker decides which are visible; a shared encoder reads only
those; a decoder answers for the rest; an objective scores the answers.
"""

from typing import TYPE_CHECKING, Any

from multimask.checkpoints import load
from multimask.masking import Block, Count, Grid, Masker, Ratio, Uniform
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.objectives import Objective, Reconstruction
from multimask.tokens import BadSample, Batch, Latents, Masking, Part, Samples, Step, Term, Tokens

if TYPE_CHECKING:
    from multimask.evaluation import embed
    from multimask.training import fit

__version__ = "0.1.0"

__all__ = [
    "BadSample",
    "Batch",
    "Block",
    "Count",
    "Grid",
    "Latents",
    "MaskedModel",
    "Masker",
    "Masking",
    "Objective",
    "Part",
    "Ratio",
    "Reconstruction",
    "Samples",
    "Step",
    "Target",
    "Term",
    "Tokens",
    "Uniform",
    "collate",
    "embed",
    "fit",
    "load",
]


def __getattr__(name: str) -> Any:
    """`fit` and `embed` are imported when used: Lightning and scikit-learn take seconds."""
    if name == "fit":
        from multimask.training import fit

        return fit
    if name == "embed":
        from multimask.evaluation import embed

        return embed
    raise AttributeError(f"module 'multimask' has no attribute {name!r}")
