"""Rows of a table as a modality: a column is a token, an empty cell does not exist."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.nn.blocks import init_weights
from multimask.plugins import remembers_arguments
from multimask.tokens import BadSample, Grid, Part, Tokens

EMPTY = ("", "na", "n/a", "nan", "none", "null")  # cells that say that nothing is known


@dataclass(frozen=True)
class Tabular:
    """Make a token of every cell of a row: clinical values, sensor readings, answers to questions.

    Raw contract: a mapping from column to a number or a category's name; a column that is left out,
    None, NaN or blank text is an empty cell, which is a token that does not exist; so is "none" or
    "n/a", unless it is one of the column's categories. Numbers are standardised with their column's
    `(mean, std)`. A row must have one cell at least.

    Args:
        numbers: numeric columns, name to (mean, std), in their own unit.
        categories: categorical columns, name to their categories.
    Raises: ValueError for columns that cannot be; BadSample for other columns and categories.

    >>> table = Tabular({"age": (60.0, 10.0)}, {"grade": ("II", "III", "IV")})
    >>> rows = table.collate([{"age": 75, "grade": "IV"}, {"age": 50}])
    >>> tokens = table(Part(rows, torch.arange(2)))
    >>> tokens.values[..., 0].tolist(), tokens.valid.tolist()
    ([[1.5, 2.0], [-1.0, 0.0]], [[True, True], [True, False]])
    """

    numbers: Mapping[str, tuple[float, float]]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    token_dim = 1
    """A standardised number, or the place of a category in its list."""

    coord_dim = 1
    """Places are the column's index."""

    def __post_init__(self) -> None:
        both = set(self.numbers) & set(self.categories)
        if both or not (self.numbers or self.categories):
            raise ValueError(
                f"Tabular: expected some columns, each numeric or categorical, found "
                f"{sorted(self.numbers)} and {sorted(self.categories)}."
            )
        for name, (mean, std) in self.numbers.items():
            if not (math.isfinite(mean) and 0 < std < math.inf):
                raise ValueError(f"Tabular: column {name!r} has mean={mean} and std={std}.")
        for name, listed in self.categories.items():
            if len(set(listed)) != len(listed) or not listed:
                raise ValueError(
                    f"Tabular: column {name!r} must list its categories, each once, not {listed}."
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """Numeric columns, then categorical ones."""
        return (*self.numbers, *self.categories)

    @property
    def num_tokens(self) -> int:
        return len(self.columns)

    @property
    def choices(self) -> tuple[int, ...]:
        """How many categories a column has; 0 for numbers."""
        return (*(0 for _ in self.numbers), *(len(found) for found in self.categories.values()))

    def collate(self, items: Sequence[Any]) -> Float[Tensor, "r n"]:
        """Standardised numbers and places of categories, NaN for empty cells."""
        return torch.tensor([self.row(item) for item in items])

    def blank(self, count: int) -> Float[Tensor, "r n"]:
        return torch.zeros(count, self.num_tokens)

    def row(self, item: Any) -> list[float]:
        if not isinstance(item, Mapping):
            raise BadSample(
                f"Tabular: expected a mapping from column to cell, found {type(item).__name__}."
            )
        unknown = sorted(set(item) - set(self.columns))
        if unknown:
            raise BadSample(
                f"Tabular: expected columns among {', '.join(self.columns)}, found "
                f"{', '.join(unknown)}."
            )
        cells = [self.number(name, item.get(name)) for name in self.numbers]
        cells += [self.category(name, item.get(name)) for name in self.categories]
        if all(math.isnan(cell) for cell in cells):
            raise BadSample("Tabular: every cell of the row is empty; leave the modality out.")
        return cells

    def number(self, name: str, cell: Any) -> float:
        if empty(cell):
            return math.nan
        mean, std = self.numbers[name]
        try:
            value = float(cell)
        except (TypeError, ValueError) as error:
            raise BadSample(f"Tabular: column {name!r} holds numbers, found {cell!r}.") from error
        if not math.isfinite(value):
            raise BadSample(f"Tabular: column {name!r} holds finite numbers, found {cell!r}.")
        return (value - mean) / std

    def category(self, name: str, cell: Any) -> float:
        listed = self.categories[name]
        if str(cell) not in listed and empty(cell):  # "none" may be a category
            return math.nan
        if str(cell) not in listed:
            raise BadSample(
                f"Tabular: column {name!r} expected one of {', '.join(listed)}, found {cell!r}."
            )
        return float(listed.index(str(cell)))

    def valid(self, part: Part) -> Bool[Tensor, "r n"]:
        return ~part.data.isnan()

    def __call__(self, part: Part) -> Tokens:
        places = torch.arange(self.num_tokens, device=part.data.device)
        values = part.data.nan_to_num()[..., None]
        return Tokens(values, places[None, :, None].float(), part.rows, self.valid(part))

    def untokenize(self, tokens: Tokens) -> list[dict[str, Any]]:
        """Rows as they came: numbers in their unit, names of categories, empty cells left out."""
        values = tokens.values[..., 0].tolist()
        there = torch.ones(tokens.values.shape[:2]) if tokens.valid is None else tokens.valid
        return [
            {n: self.cell(n, x) for n, x, has in zip(self.columns, row, known, strict=True) if has}
            for row, known in zip(values, there.tolist(), strict=True)
        ]

    def cell(self, name: str, value: float) -> Any:
        if name in self.numbers:
            mean, std = self.numbers[name]
            return value * std + mean
        return self.categories[name][round(value)]

    def adapter(self, width: int, decoder_width: int | None) -> nn.Module:
        return TabularAdapter(self, width, decoder_width)


def empty(cell: Any) -> bool:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return isinstance(cell, str) and cell.strip().lower() in EMPTY


@remembers_arguments
class TabularAdapter(nn.Module):
    """A vector per column, times the number, and a vector per category; squared error and
    cross-entropy (the feature tokenizer of FT-Transformer, Gorishniy et al., NeurIPS 2021).

    Answers are laid out side by side: a number a numeric column, logits a categorical one; a token
    reads its column's.
    """

    answers_by_place = True
    restoring_leaks = False

    def __init__(self, tokenizer: Tabular, width: int, decoder_width: int | None) -> None:
        super().__init__()
        choices = tokenizer.choices
        sizes = [max(1, count) for count in choices]
        starts = [sum(sizes[:column]) for column in range(len(sizes))]
        answer_width = width if decoder_width is None else decoder_width
        self.most = max(sizes)
        self.register_buffer("choices", torch.tensor(choices), persistent=False)
        self.register_buffer("start", torch.tensor(starts), persistent=False)
        self.slope = nn.Parameter(torch.empty(sum(sizes), width))
        self.column = nn.Parameter(torch.empty(len(choices), width))
        self.decoder_column = None
        if decoder_width is not None:
            self.decoder_column = nn.Parameter(torch.empty(len(choices), decoder_width))
            nn.init.normal_(self.decoder_column, std=0.02)
        self.pred = nn.Linear(answer_width, sum(sizes))
        self.pred.apply(init_weights)
        nn.init.normal_(self.slope, std=0.02)
        nn.init.normal_(self.column, std=0.02)

    def embed(self, values: Num[Tensor, "m c"], coords: Num[Tensor, "m p"]) -> Float[Tensor, "m w"]:
        column = coords[:, 0].long()
        number = self.get_buffer("choices")[column] == 0
        x = values[:, 0].to(self.slope.dtype)
        code = torch.where(number, 0.0, x).round().long()
        vector = self.slope.index_select(0, self.get_buffer("start")[column] + code)
        return vector * torch.where(number, x, 1.0)[:, None]

    def place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.column.index_select(0, slots)

    def decoder_place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        if self.decoder_column is None:
            raise ValueError("TabularAdapter: it was built for a model without a decoder.")
        return self.decoder_column.index_select(0, slots)

    def predict(
        self, features: Float[Tensor, "m w"], coords: Num[Tensor, "m p"]
    ) -> Float[Tensor, "m o"]:
        """Column index, then the column's number or logits, padded with -inf."""
        column = coords[:, 0].long()
        size = self.get_buffer("choices")[column].clamp(min=1)
        place = torch.arange(self.most, device=column.device)
        inside = place < size[:, None]
        at = torch.where(inside, self.get_buffer("start")[column][:, None] + place, 0)
        answers = self.pred(features).gather(1, at).masked_fill(~inside, -torch.inf)
        # half precision cannot count: neither columns nor, in `restore`, categories
        answers = answers.to(torch.promote_types(answers.dtype, torch.float32))
        return torch.cat((column[:, None].to(answers.dtype), answers), dim=1)

    def error(
        self, prediction: Float[Tensor, "m o"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, " m"]:
        number, answers = self.told(prediction)
        exact = torch.promote_types(prediction.dtype, torch.float32)
        truth, answers = values[:, 0].to(exact), answers.to(exact)
        off = (answers[:, 0] - torch.where(number, truth, 0.0)).square()
        # numbers have a single answer: their entropy is 0, and so is its gradient
        code = torch.where(number, 0.0, truth).round().long()
        wrong = F.cross_entropy(answers, code, reduction="none")
        return torch.where(number, off, wrong)

    def restore(
        self, prediction: Float[Tensor, "m o"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, "m c"]:
        """The number, or the place of the likeliest category."""
        number, answers = self.told(prediction)
        likeliest = answers.argmax(dim=1).to(answers.dtype)
        return torch.where(number, answers[:, 0], likeliest)[:, None]

    def told(self, prediction: Float[Tensor, "m o"]) -> tuple[Bool[Tensor, " m"], Tensor]:
        column = prediction[:, 0].detach().round().long()
        return self.get_buffer("choices")[column] == 0, prediction[:, 1:]
