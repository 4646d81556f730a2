"""Answers for cells of a table."""

from typing import Any

from multimask.ensembles import Spread
from multimask.modalities.tabular import Tabular
from multimask.tokens import Tokens

DIGITS = 6  # that are written of a number


def filled_cells(
    tokenizer: Tabular, tokens: Tokens, spread: Spread
) -> tuple[dict[str, Any], dict[str, float]]:
    """A row's cells, and how they spread: of numbers the standard deviation in their own unit, of
    categories the share of draws that answered another."""
    (cells,) = tokenizer.untokenize(tokens)
    cells = {n: float(f"{x:.{DIGITS}g}") if n in tokenizer.numbers else x for n, x in cells.items()}
    sure = {}
    for place, name in enumerate(tokenizer.columns):
        if name in tokenizer.numbers:
            wide = float(spread.std[0, place]) * tokenizer.numbers[name][1]
        else:
            wide = 1 - float(spread.agreeing[0, place])
        sure[name] = float(f"{wide:.{DIGITS}g}")
    return cells, sure
