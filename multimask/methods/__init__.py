"""One published method per file: a recipe of model, objective and the paper's defaults."""

from multimask.methods.recipe import Recipe

__all__ = ["Recipe"]
