"""Masking: a rule says who is hidden, a budget how many, a masker is the two together."""

from multimask.masking.budgets import Count, Natural, Ratio, num_visible
from multimask.masking.lattices import RunningCell, Slab, Tube
from multimask.masking.masker import Context, Masker, everything, masker_for
from multimask.masking.rules import Block, Grid, Uniform
from multimask.masking.sharing import Curriculum, Dirichlet, Dropped, Fixed, Roles
from multimask.masking.subsets import Subset
from multimask.masking.tied import Tied

__all__ = [
    "Block",
    "Context",
    "Count",
    "Curriculum",
    "Dirichlet",
    "Dropped",
    "Fixed",
    "Grid",
    "Masker",
    "Natural",
    "Ratio",
    "Roles",
    "RunningCell",
    "Slab",
    "Subset",
    "Tied",
    "Tube",
    "Uniform",
    "everything",
    "masker_for",
    "num_visible",
]
