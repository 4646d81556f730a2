"""Masking: a rule says who is hidden, a budget how many, a masker is the two together."""

from multimask.masking.budgets import Count, Ratio, num_visible
from multimask.masking.masker import Context, Masker, everything
from multimask.masking.rules import Block, Grid, Uniform

__all__ = [
    "Block",
    "Context",
    "Count",
    "Grid",
    "Masker",
    "Ratio",
    "Uniform",
    "everything",
    "num_visible",
]
