"""Weights in files: adapted to other data, told in a report, and never trusted."""

import argparse
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import multimask
from multimask import MaskedModel
from multimask.checkpoints import adapt, initialise, weights
from multimask.checkpoints.hub import from_pretrained, push_to_hub
from multimask.methods.mae import mae
from multimask.modalities.image import ImagePatches
from multimask.modalities.points import PointGroups
from multimask.tokens import Batch, Part

SIZES: dict[str, Any] = {
    "width": 24,
    "depth": 2,
    "heads": 2,
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
HEADS: dict[str, Any] = {"heads": 2, "decoder_heads": 2}


def model_of(
    tokenizer: Any = None, name: str = "image", seed: int = 0, **sizes: Any
) -> MaskedModel:
    torch.manual_seed(seed)
    return mae({name: tokenizer or ImagePatches(56, 4)}, **{**SIZES, **sizes}).model.eval()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training file of MAE with a lattice of 14 x 14, as at 224 pixels."""
    file = tmp_path_factory.mktemp("weights") / "mae_pretrain_full.pth"
    model_of().export(file, "mae")
    return file


def state_in(file: Path) -> dict[str, Tensor]:
    return torch.load(file, weights_only=True)["model"]


def batch(channels: int, height: int, width: int) -> Batch:
    data = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    return Batch(2, ("a", "b"), {}, {"image": Part(data, torch.arange(2))})


# --- other sizes, channels, patches ---------------------------------------------------------------


def test_a_square_model_at_another_size_interpolates_its_tables(theirs: Path) -> None:
    said: list[str] = []
    wide = ImagePatches((40, 24), 4, mean=0.5, std=0.5)
    model = multimask.load(theirs, modalities={"image": wide}, tell=said.append, **HEADS)
    assert cast(ImagePatches, model.tokenizers["image"]).grid == (10, 6)
    table = cast(Any, model.adapters["image"]).position.table
    old = state_in(theirs)["pos_embed"][0, 1:].T.reshape(1, 24, 14, 14)
    wanted = nn.functional.interpolate(old, (10, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(table, wanted[0].flatten(1).T, atol=1e-6, rtol=0)
    assert "48 weights matched, 2 adapted, 0 new, 0 left aside" in said[0]
    assert "14x14 places interpolated to 10x6" in said[0]
    assert "mean is 0.5 here and (0.485, 0.456, 0.406) there" in said[0]
    assert model.encode(batch(3, 40, 24)).tokens.shape == (2, 60, 24)


def test_grids_of_as_many_places_are_still_told_apart(theirs: Path) -> None:
    flat = multimask.load(
        theirs, modalities={"image": ImagePatches((28, 112), 4)}, tell=None, **HEADS
    )
    assert flat.num_tokens["image"] == 196
    table = cast(Any, flat.adapters["image"]).position.table
    assert not torch.equal(table, state_in(theirs)["pos_embed"][0, 1:])


def test_more_channels_repeat_the_old_ones_and_keep_their_sum(theirs: Path) -> None:
    said: list[str] = []
    five = ImagePatches(56, 4, channels=5)
    model = multimask.load(theirs, modalities={"image": five}, tell=said.append, **HEADS)
    assert "3 channels to 5" in said[0]
    kernel = model.state_dict()["adapters.image.proj.weight"].view(24, 16, 5)
    old = state_in(theirs)["patch_embed.proj.weight"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(kernel[..., 3], old[..., 0] * 3 / 5)
    rows = model.state_dict()["adapters.image.pred.weight"].view(16, 5, 16)
    torch.testing.assert_close(
        rows[:, 4], state_in(theirs)["decoder_pred.weight"].view(16, 3, 16)[:, 1]
    )


def test_a_single_channel_sees_a_grey_picture_as_it_was_seen(theirs: Path) -> None:
    alike: dict[str, Any] = {"mean": 0.5, "std": 0.5}
    colour, grey = (
        multimask.load(
            theirs,
            modalities={"image": ImagePatches(56, 4, channels=count, **alike)},
            tell=None,
            **HEADS,
        )
        for count in (3, 1)
    )
    one = batch(1, 56, 56)
    three = Batch(
        2,
        one.sample_ids,
        {},
        {"image": Part(one.parts["image"].data.expand(2, 3, 56, 56), torch.arange(2))},
    )
    with torch.no_grad():
        torch.testing.assert_close(
            grey.encode(one).tokens, colour.encode(three).tokens, atol=1e-5, rtol=0
        )


def test_a_larger_patch_says_of_an_enlarged_picture_what_was_said(theirs: Path) -> None:
    same: dict[str, Any] = {"mean": 0.5, "std": 0.5}
    said: list[str] = []
    small, large = (
        multimask.load(
            theirs,
            modalities={"image": ImagePatches(14 * side, side, **same)},
            tell=said.append,
            **HEADS,
        )
        for side in (4, 8)
    )
    assert "patch 4x4 resized to 8x8" in said[1]
    pictures = batch(3, 56, 56).parts["image"].data
    matrix = adapt.resizing(4, 8)
    patches = pictures.unflatten(2, (14, 4)).unflatten(4, (14, 4))  # b c y 4 x 4
    grown = torch.einsum("bcyrxs,tr,us->bcytxu", patches, matrix, matrix).reshape(2, 3, 112, 112)
    both = [
        Batch(2, ("a", "b"), {}, {"image": Part(x, torch.arange(2))}) for x in (pictures, grown)
    ]
    with torch.no_grad():
        torch.testing.assert_close(
            large.encode(both[1]).tokens, small.encode(both[0]).tokens, atol=2e-4, rtol=0
        )


def test_a_vit_at_224_pixels_reads_other_sizes_and_channels(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        image_size=224, patch_size=16, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=96, decoder_hidden_size=16, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=64,
    )  # fmt: skip
    transformers.ViTMAEForPreTraining(config).save_pretrained(tmp_path)
    said: list[str] = []
    tall = ImagePatches((160, 96), 16, channels=5)
    model = multimask.load(tmp_path, modalities={"image": tall}, tell=said.append)
    assert "adapters.image.proj.weight: 3 channels to 5" in said[0]
    assert "adapters.image.position.table: 14x14 places interpolated to 10x6" in said[0]
    assert "0 new, 0 left aside" in said[0]
    made = batch(5, 160, 96)
    assert model.encode(made).tokens.shape == (2, 60, 24)
    answer = model.reconstruct(made)
    assert answer.restored["image"].values.shape == (2, 60, 16 * 16 * 5)


def test_our_own_folder_is_adapted_the_same_way(tmp_path: Path) -> None:
    model_of(ImagePatches(16, 4)).save(tmp_path / "ours")
    said: list[str] = []
    other = multimask.load(
        tmp_path / "ours", modalities={"image": ImagePatches(32, 8, channels=1)}, tell=said.append
    )
    assert "patch 4x4 resized to 8x8, 3 channels to 1" in said[0]
    assert other.encode(batch(1, 32, 32)).tokens.shape == (2, 16, 24)


# --- into a model that is there -------------------------------------------------------------------


def test_a_model_is_begun_with_their_weights(theirs: Path) -> None:
    model = model_of(ImagePatches(56, 4), name="photo", seed=5)
    report = initialise(model, theirs, **HEADS)
    assert torch.equal(
        model.state_dict()["encoder.blocks.1.mlp.fc1.weight"],
        state_in(theirs)["blocks.1.mlp.fc1.weight"],
    )
    # positions are computed here, the modality's name in the decoder begins new
    assert report.fresh == ("adapters.photo.decoder_name",)
    assert set(report.skipped) == {
        "adapters.image.position.table",
        "adapters.image.decoder_position.table",
    }


def test_modalities_that_are_not_there_stay_as_they_began(tmp_path: Path) -> None:
    torch.manual_seed(0)
    both = mae({"a": ImagePatches(16, 4), "b": ImagePatches(16, 4)}, **SIZES).model
    both.save(tmp_path / "both")
    torch.manual_seed(1)
    other = mae({"a": ImagePatches(16, 4), "c": PointGroups(4, 2)}, **SIZES).model
    before = {k: v.clone() for k, v in other.state_dict().items() if k.startswith("adapters.c.")}
    report = initialise(other, tmp_path / "both")
    assert all(torch.equal(other.state_dict()[k], v) for k, v in before.items())
    assert torch.equal(
        other.state_dict()["adapters.a.proj.weight"], both.state_dict()["adapters.a.proj.weight"]
    )
    assert all(key.startswith("adapters.c.") for key in report.fresh)
    assert all(key.startswith("adapters.b.") for key in report.skipped)
    assert "left aside  adapters.b." in str(report)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"width": 48}, "width 24.*width 48"),
        ({"depth": 3}, "depth 2.*depth 3"),
        ({"heads": 3}, "heads 2.*heads 3"),
    ],
)
def test_an_encoder_of_another_size_is_refused(
    theirs: Path, sizes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        initialise(model_of(**sizes), theirs, **HEADS)


def test_weights_do_not_tell_their_heads(theirs: Path) -> None:
    with pytest.raises(ValueError, match=r"width 24 is no published size; say heads="):
        multimask.load(theirs, tell=None)
    with pytest.raises(ValueError, match="takes no hats; it takes size, heads"):
        multimask.load(theirs, tell=None, hats=2)


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
