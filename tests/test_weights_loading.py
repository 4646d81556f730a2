"""Weights in files and on the Hub: read whole, told in a report, and never trusted."""

import argparse
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import multimask
from multimask.checkpoints import weights
from multimask.checkpoints.hub import from_pretrained, push_to_hub
from multimask.modalities.image import ImagePatches
from small_weights import HEADS, batch, model_of, state_in, write_theirs


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_theirs(tmp_path_factory.mktemp("weights"))


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_every_kind_of_file_is_read(theirs: Path, tmp_path: Path, suffix: str) -> None:
    model = multimask.load(theirs, tell=None, **HEADS)
    model.export(tmp_path / f"again{suffix}", "mae")
    again = multimask.load(tmp_path / f"again{suffix}", tell=None, **HEADS)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_a_training_checkpoint_is_unwrapped_and_the_rest_is_told(
    theirs: Path, tmp_path: Path
) -> None:
    state = {f"module.{key}": value.half() for key, value in state_in(theirs).items()}
    options = argparse.Namespace(lr=0.1)
    torch.save({"model": state, "optimizer": {"step": 3}, "args": options}, tmp_path / "a.pth")
    said: list[str] = []
    model = multimask.load(tmp_path / "a.pth", tell=said.append, **HEADS)
    assert "left aside  optimizer, args" in said[0]
    assert model.state_dict()["encoder.norm.weight"].dtype == torch.float32


def test_parts_of_a_folder_are_put_together(theirs: Path, tmp_path: Path) -> None:
    state = state_in(theirs)
    names = sorted(state)
    halves = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, keys in halves.items():
        save_file({key: state[key].contiguous() for key in keys}, tmp_path / file)
    places = {key: file for file, keys in halves.items() for key in keys}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert set(weights.read(tmp_path).state) == set(state)
    index.write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(ValueError, match="which is not in the folder"):
        weights.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("norm.bias"), r"1 keys are missing \(first norm.bias\)"),
        (lambda s: s.update(magic=torch.ones(1)), r"1 are not theirs \(first magic\)"),
        (lambda s: s["norm.bias"].fill_(torch.nan), "norm.bias holds NaN"),
        (lambda s: s.update({"norm.bias": torch.ones(7)}), "does not fit the layout mae"),
        (lambda s: s.update({"pos_embed": torch.ones(1, 6, 24)}), "no square; say size="),
    ],
)
def test_weights_that_are_not_whole_are_refused(
    theirs: Path, tmp_path: Path, change: Any, said: str
) -> None:
    state = {key: value.clone() for key, value in state_in(theirs).items()}
    change(state)
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=said) as caught:
        multimask.load(tmp_path / "a.pth", layout="mae", tell=None, **HEADS)
    assert "a.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_keys_and_layouts_list_what_there_is(theirs: Path, tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"its 1 entries \(a.weight ...\).*Layouts are mae,"):
        multimask.load(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="layout='magic' is unknown; layouts are mae,"):
        multimask.load(theirs, layout="magic")


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("evil"),)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.ones(1)}, "evil": Evil()}, "a.pth")
    Path("b.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ValueError, match=r"is not read|not a whole torch file"):
            multimask.load(name)
    assert not Path("evil").exists()


def test_a_zip_bomb_is_not_unpacked(theirs: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(theirs) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for each in old.infolist():
            data = old.read(each)
            new.writestr(each.filename, b"\0" * 2_000_000 if "/data/" in each.filename else data)
    assert bomb.stat().st_size < 500_000
    with pytest.raises(ValueError, match="unpacks into"):
        multimask.load(bomb)


def test_a_tensor_cannot_claim_more_than_its_file_holds(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**11)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="claims 100,000,000,000 numbers"):
        multimask.load(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_half_a_file_is_no_file(theirs: Path, tmp_path: Path, name: str) -> None:
    model = multimask.load(theirs, tell=None, **HEADS)
    model.export(tmp_path / name, "mae")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short"):
        multimask.load(tmp_path / name, tell=None, **HEADS)


def test_what_is_not_there_or_no_weights_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no weights")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        multimask.load(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match=r"a file ending in \.safetensors"):
        multimask.load(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match="expected a model folder"):
        multimask.load(tmp_path / "empty")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected a state dict"):
        multimask.load(tmp_path / "list.pth")


# --- the Hub --------------------------------------------------------------------------------------


class Disk:
    """Stands for the Hub's API: a folder on this disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create_repo(self, name: str, **kwargs: Any) -> None:
        (self.root / name).mkdir(parents=True, exist_ok=kwargs["exist_ok"])

    def upload_folder(self, repo_id: str, folder_path: str, **kwargs: Any) -> str:
        for file in Path(folder_path).iterdir():
            (self.root / repo_id / file.name).write_bytes(file.read_bytes())
        return f"https://hub/{repo_id}"


@pytest.mark.parametrize("layout", [None, "hf-vitmae"])
def test_a_model_goes_to_the_hub_and_comes_back(layout: str | None, tmp_path: Path) -> None:
    model = model_of(ImagePatches(16, 4))
    address = push_to_hub(model, "me/mine", layout=layout, api=Disk(tmp_path))
    assert address == "https://hub/me/mine"
    assert "from_pretrained" in (tmp_path / "me" / "mine" / "README.md").read_text()
    again = from_pretrained(tmp_path / "me" / "mine", tell=None)
    with torch.no_grad():
        torch.testing.assert_close(
            again.encode(batch(3, 16, 16)).tokens, model.encode(batch(3, 16, 16)).tokens
        )


def test_the_hub_is_asked_for_weights_without_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    model_of(ImagePatches(16, 4)).save(tmp_path / "cache")
    asked: list[Any] = []

    def download(name: str, **kwargs: Any) -> str:
        asked.append((name, kwargs["revision"], kwargs["allow_patterns"]))
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    from_pretrained("me/mine", revision="v1")
    assert asked == [("me/mine", "v1", ["*.json", "*.safetensors"])]
    with pytest.raises(ValueError, match="no name"):
        from_pretrained("me/mine/../yours")
