"""Vectors in a store: the numbers of `embed`, whatever the batch size, wherever it was stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch

from multimask import MaskedModel, embed
from multimask.cli import main
from multimask.cli.embedding import FEATURES, embed_to_store
from multimask.datasets.table import Table
from multimask.modalities.image import ImagePatches
from multimask.tokens import BadSample


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multimask.datasets.store.VECTORS", 8)


@pytest.fixture
def model() -> MaskedModel:
    torch.manual_seed(0)
    return MaskedModel({"image": ImagePatches(8, patch=4)}, width=24, depth=1, heads=2)


@pytest.fixture
def table() -> Table:
    """Twenty pictures with classes; the last cannot be used."""
    generator = torch.Generator().manual_seed(0)
    pictures = list(torch.randint(256, (20, 3, 8, 8), generator=generator, dtype=torch.uint8))
    pictures[19] = pictures[19][:1]
    return Table.from_arrays(image=pictures, label=[row % 3 for row in range(20)])


def vectors(store: Table, rows: int = 19) -> np.ndarray:
    return torch.stack([store[row][FEATURES] for row in range(rows)]).numpy()


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (5, 0), (64, 0), (3, 2)])
def test_a_store_holds_what_embed_gives(
    model: MaskedModel, table: Table, tmp_path: Path, batch_size: int, workers: int
) -> None:
    made = embed_to_store(
        model, table, tmp_path / "vectors", batch_size=batch_size, workers=workers
    )
    np.testing.assert_allclose(vectors(made), embed(model, table).features, rtol=0, atol=1e-6)
    assert list(made.columns["id"]) == list(table.columns["id"])
    assert list(made.columns["label"]) == list(table.columns["label"])
    with pytest.raises(BadSample, match="channels"):
        made[19]


def test_embedding_goes_on_where_it_was_stopped(
    model: MaskedModel, table: Table, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, of: int) -> None:
        raise Stop

    embed_to_store(model, table, tmp_path / "whole", batch_size=3)
    for _ in range(2):
        with pytest.raises(Stop):
            embed_to_store(model, table, tmp_path / "stopped", batch_size=3, told=stop)
    embed_to_store(model, table, tmp_path / "stopped", batch_size=3)
    whole, stopped = (
        {str(f.relative_to(top)): f.read_bytes() for f in top.rglob("*") if f.is_file()}
        for top in (tmp_path / "whole", tmp_path / "stopped")
    )
    assert stopped == whole


def test_vectors_of_another_model_are_not_mixed_in(
    model: MaskedModel, table: Table, tmp_path: Path
) -> None:
    embed_to_store(model, table, tmp_path / "vectors")
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1)
    with pytest.raises(ValueError, match="expected nothing there"):
        embed_to_store(model, table, tmp_path / "vectors")


def test_the_command_writes_a_store(
    model: MaskedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8)
    np.savez(tmp_path / "data.npz", image=pictures.numpy(), label=np.arange(9))
    model.save(tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "data.npz")]
    assert main(["embed", *words, "--out", str(tmp_path / "vectors.zarr")]) == 0
    assert "9 vectors of 24 numbers" in capsys.readouterr().out
    made = Table.open(tmp_path / "vectors.zarr")
    expected = embed(model, Table.open(tmp_path / "data.npz")).features
    np.testing.assert_allclose(vectors(made, 9), expected, rtol=0, atol=1e-6)
    assert list(made.columns["label"]) == list(range(9))
