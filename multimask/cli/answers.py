"""Answers for hidden tokens as files of the data's own format, where a kind can write them."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from multimask.datasets.table import Table
from multimask.masking import Masker
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.tokens import BadSample, Step, Tokens


@runtime_checkable
class Fills(Protocol):
    """A tokenizer that gives its samples back at their own size, from the batch they were in."""

    def filled(self, tokens: Tokens, like: Any) -> list[Any]: ...


@runtime_checkable
class Writes(Protocol):
    """A reader that can write: other data of a value that it read, into a file named so."""

    @property
    def writes(self) -> str: ...
    def write(self, path: Path, value: Any, data: Any) -> None: ...


def write_answers(
    model: MaskedModel, table: Table, masker: Masker, seed: int, folder: Path
) -> list[Path]:
    """Hide tokens of every sample, answer for them, and write each modality that can be written as
    `<id>_<modality>` into the folder. Visible tokens are the true ones. Samples that cannot be read
    are left out."""
    written = []
    for index in range(len(table)):
        try:
            sample = table[index]
            batch = collate([sample], model.tokenizers)
        except (BadSample, OSError):
            continue  # whoever trained or scored on the table has listed it
        made = model.reconstruct(batch.to(model.device), masker, Step(seed))
        for name, restored in made.restored.items():
            tokenizer, reader = model.tokenizers[name], table.readers.get(name)
            if not (isinstance(tokenizer, Fills) and isinstance(reader, Writes)):
                continue
            with torch.no_grad():
                (data,) = tokenizer.filled(restored.to("cpu"), batch.parts[name].data)
            stem = batch.sample_ids[0].strip("/").replace("/", "_").removesuffix(reader.writes)
            folder.mkdir(parents=True, exist_ok=True)
            written.append(folder / f"{stem}_{name}{reader.writes}")
            reader.write(written[-1], sample[name], data)
    return written
