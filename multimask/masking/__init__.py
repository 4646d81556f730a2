"""Masking: a rule says who is hidden, a budget how many, a masker is the two together."""

from multimask.masking.budgets import Count, Natural, Ratio, num_visible
from multimask.masking.lattices import RunningCell, Slab, Tube
from multimask.masking.masker import Context, Masker, everything, masker_for
from multimask.masking.rules import Block, Grid, Uniform
from multimask.masking.tied import Tied

__all__ = [
    "Block",
    "Context",
    "Count",
    "Grid",
    "Masker",
    "Natural",
    "Ratio",
    "RunningCell",
    "Slab",
    "Tied",
    "Tube",
    "Uniform",
    "everything",
    "masker_for",
    "num_visible",
]
