"""Model folders: what is saved comes back bit for bit, and nothing else comes in."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import multimask
from multimask.checkpoints import folder as folder_module
from multimask.methods.mae import mae
from multimask.modalities.image import ImagePatches
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter, Target
from multimask.nn.decoders import HiddenDecoder
from multimask.nn.encoders import Encoder
from multimask.nn.positions import Learned
from multimask.plugins import UnknownPlugin, remembers_arguments

PATCHES = ImagePatches((8, 16), 4, mean=(0.1, 0.2, 0.3), std=0.4)
SMALL = {"width": 24, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_heads": 2}


def small() -> MaskedModel:
    torch.manual_seed(0)
    sizes = {**SMALL, "decoder_depth": 1}
    return mae({"photo": PATCHES}, **sizes).model.eval()  # pyright: ignore


def weights(model: MaskedModel) -> dict[str, Tensor]:
    return cast(dict[str, Tensor], model.state_dict())


def same(one: MaskedModel, other: MaskedModel) -> bool:
    a, b = weights(one), weights(other)
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    small().save(tmp_path / "model")
    return tmp_path / "model"


def edited(saved: Path, change: Callable[[Any], None]) -> Path:
    file = saved / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    return saved


def argument(config: Any, *path: str) -> Any:
    """The arguments at a path of names: ("encoder",) is the encoder's."""
    found = config["model"]["arguments"]
    for name in path:
        found = found[name]
        found = found["map"] if "map" in found else found["arguments"]
    return found


# --- round trips ----------------------------------------------------------------------------------


def built() -> dict[str, Callable[[], MaskedModel]]:
    def with_parts() -> MaskedModel:
        adapter = LinearAdapter(PATCHES, 24, 16, Target("channel"), position=Learned, named=True)
        parts = Encoder(24, 1, 2, layer_scale=0.1), HiddenDecoder(24, 16, 1, 2)
        return MaskedModel({"a": PATCHES, "b": ImagePatches(8, 4, 1)}, *parts, {"a": adapter})

    return {
        "mae": small,
        "sizes alone": lambda: MaskedModel({"photo": PATCHES}, **cast(Any, SMALL)),
        "no decoder": lambda: MaskedModel({"p": PATCHES}, Encoder(24, 1, 2), decoder=False),
        "parts of every sort": with_parts,
    }


@pytest.mark.parametrize("name", list(built()))
def test_a_model_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = built()[name]().eval()
    model.save(tmp_path / "new" / "model")
    loaded = multimask.load(tmp_path / "new" / "model")
    assert not loaded.training
    assert same(loaded, model)
    assert loaded.tokenizers == model.tokenizers
    pictures = {n: torch.rand(t.channels, 8, 16) for n, t in cast(Any, model.tokenizers).items()}
    for key in ("b",):
        if key in pictures:
            pictures[key] = torch.rand(1, 8, 8)
    batch = collate([{"id": "x", **pictures}], model.tokenizers)
    assert torch.equal(loaded.encode(batch).tokens, model.encode(batch).tokens)


def test_saving_again_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    multimask.load(saved).save(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (saved / file).read_bytes()


def test_names_are_saved_and_never_import_paths(saved: Path) -> None:
    text = (saved / "config.json").read_text()
    assert "modalities/image" in text
    assert "multimask." not in text
    provided = json.loads(text)["provided_by"]
    assert provided["parts/vit"].startswith("multimask ")


# --- a class that no package provides -------------------------------------------------------------


@remembers_arguments
class Mine(Encoder):
    """Somebody's own encoder."""

    def __init__(self, width: int, factor: float = 1.0) -> None:
        super().__init__(width, 1, 2)
        self.factor = factor


def test_a_class_of_ones_own_is_named_when_loading(tmp_path: Path) -> None:
    model = MaskedModel({"photo": PATCHES}, Mine(24, factor=2.5), decoder=False).eval()
    model.save(tmp_path)
    with pytest.raises(UnknownPlugin, match=r"nobody here provides 'Mine'.*pass classes="):
        multimask.load(tmp_path)
    loaded = multimask.load(tmp_path, classes={"Mine": Mine})
    assert same(loaded, model)
    assert cast(Mine, loaded.encoder).factor == 2.5


def test_a_tokenizer_of_ones_own_is_named_when_loading(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Sonar(ImagePatches):
        depth_m: float = 10.0

    model = MaskedModel({"sonar": Sonar(8, 4, depth_m=3.0)}, **cast(Any, SMALL)).eval()
    model.save(tmp_path)
    name = Sonar.__qualname__
    loaded = multimask.load(tmp_path, classes={name: Sonar})
    assert loaded.tokenizers["sonar"] == Sonar(8, 4, depth_m=3.0)
    assert same(loaded, model)


def test_what_has_no_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Nameless(nn.Module):
        width = 24

    model = MaskedModel({"photo": PATCHES}, Nameless(), decoder=False)
    with pytest.raises(ValueError, match=r"Nameless cannot be saved by name.*remembers_arguments"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


# --- damaged and foreign files --------------------------------------------------------------------


def test_a_folder_that_is_no_model_is_told(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a model folder .* found no config.json"):
        multimask.load(tmp_path)
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no model.safetensors"):
        multimask.load(saved)


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, 0.999])
def test_weights_cut_short_are_told(saved: Path, kept: float) -> None:
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"model.safetensors: not a whole safetensors file"):
        multimask.load(saved)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected JSON"),
        ("{", "expected JSON"),
        ("\0\xff", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", "expected a configuration written by multimask"),
        ('{"architectures": ["ViTMAEModel"], "hidden_size": 768}', "written by multimask"),
        ('{"format": 99, "model": {}}', "written in format 99, this version reads 1"),
        ('{"format": 1, "model": 5}', "describes a int, expected a MaskedModel"),
        ('{"format": 1, "model": {"name": 5}}', "named by a string, not 5"),
        ('{"format": 1, "model": {"arguments": {}}}', "expected a name and arguments"),
        ('{"format": 1, "model": {"name": "parts/target", "arguments": {}}}', "describes a Target"),
        ('{"format": 1, "model": {"name": "parts/model", "arguments": []}}', "must be an object"),
        ('{"format": 1, "model": {"name": "parts/vit"}}', "expected a MaskedModel"),
    ],
)
def test_foreign_configurations_are_told_in_a_sentence(saved: Path, text: str, told: str) -> None:
    (saved / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=told) as raised:
        multimask.load(saved)
    assert "config.json" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["Strange", "parts/strange", "os:system", "parts/../model"])
def test_an_unknown_class_is_one_sentence(saved: Path, name: str) -> None:
    edited(saved, lambda config: config["model"].update(name=name))
    with pytest.raises(UnknownPlugin) as raised:
        multimask.load(saved)
    message = str(raised.value)
    assert message.startswith(f"configuration: nobody here provides {name!r}.")
    assert "Install the package" in message


@pytest.mark.parametrize(
    ("path", "changes", "told"),
    [
        (["encoder"], {"colour": 3}, "parts/vit takes no colour; it takes width, depth"),
        (["encoder"], {"width": "wide"}, "takes width as .*int.*, not 'wide'"),
        (["encoder"], {"width": 24.5}, "takes width as .*int.*, not 24.5"),
        (["encoder"], {"width": True}, "takes width as .*int.*, not True"),
        (["encoder"], {"heads": 7}, "width=24 must be a multiple of heads=7"),
        (["encoder"], {"globals_at": "nowhere"}, "must be 'first' or 'last'"),
        (["modalities", "photo"], {"fit": "squeeze"}, "takes fit as .*Literal.*, not 'squeeze'"),
        (["modalities", "photo"], {"patch": 3}, "not divisible into 3x3"),
        (["modalities", "photo"], {"std": 0.0}, "std=0.0 must be positive"),
        (["target"], {"unit": "week"}, "takes unit as"),
        ([], {"modalities": {"map": {}}}, "give at least one modality"),
        ([], {"modalities": None}, "takes modalities as"),
        ([], {"modalities": {"map": {"photo": "image"}}}, "config.json: "),
        ([], {"encoder": {"map": {}}}, "config.json: "),
        (["encoder"], {"mlp_ratio": float("nan")}, "nan is no sensible argument"),
        (["encoder"], {"eps": 1e300}, "1e.300 is no sensible argument"),
    ],
)
def test_a_wrong_argument_is_told(
    saved: Path, path: list[str], changes: dict[str, Any], told: str
) -> None:
    edited(saved, lambda config: argument(config, *path).update(changes))
    with pytest.raises(ValueError, match=told) as raised:
        multimask.load(saved)
    assert "config.json" in str(raised.value)


def test_a_missing_argument_is_told(saved: Path) -> None:
    edited(saved, lambda config: argument(config, "decoder").pop("encoder_width"))
    with pytest.raises(ValueError, match=r"parts/joint lacks its argument 'encoder_width'"):
        multimask.load(saved)


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        (["encoder"], {"width": 10**9}),
        (["encoder"], {"width": 10**12}),
        (["encoder"], {"depth": 10**9}),
        (["encoder"], {"num_globals": 10**9}),
        (["encoder"], {"mlp_ratio": 1e9}),
        (["decoder"], {"depth": 10**8}),
        (["modalities", "photo"], {"size": [10**6, 10**6], "patch": 1}),
        (["modalities", "photo"], {"channels": 10**9}),
        (["modalities", "photo"], {"mean": [0.5] * 200_000}),
    ],
)
@pytest.mark.timeout(20)
def test_absurd_sizes_allocate_nothing(
    saved: Path, path: list[str], changes: dict[str, Any]
) -> None:
    edited(saved, lambda config: argument(config, *path).update(changes))
    before = resident()
    with pytest.raises(ValueError, match=r"config\.json|model\.safetensors"):
        multimask.load(saved)
    assert resident() - before < 200


def resident() -> float:
    """MiB of this process at most so far, where the system tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.pop("encoder.globals"), r"1 missing \(first encoder.globals\)"),
        (lambda w: w.update(x=torch.zeros(2)), r"1 surplus \(first x\)"),
        (
            lambda w: w.update({"encoder.globals": torch.zeros(2, 24)}),
            r"encoder.globals has shape \(2, 24\), config.json says \(1, 24\)",
        ),
        (lambda w: w["decoder.norm.bias"].fill_(torch.nan), "decoder.norm.bias holds NaN"),
        (lambda w: w["decoder.norm.bias"][3:4].fill_(torch.inf), "decoder.norm.bias holds NaN"),
    ],
)
def test_weights_that_do_not_belong_are_told(
    saved: Path, change: Callable[[dict[str, Tensor]], Any], told: str
) -> None:
    file = saved / "model.safetensors"
    held = {key: value.clone() for key, value in load_file(file).items()}
    change(held)
    save_file(held, file)
    with pytest.raises(ValueError, match=told) as raised:
        multimask.load(saved)
    assert "model.safetensors" in str(raised.value)


def test_nothing_is_unpickled(tmp_path: Path, saved: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(marker),))

    torch.save({"model": Evil()}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"not a whole safetensors file"):
        multimask.load(saved)
    assert not marker.exists()


# --- interrupted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_whole(
    saved: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    other = MaskedModel({"photo": PATCHES}, **cast(Any, SMALL))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if at == "fsync":
        monkeypatch.setattr(folder_module.os, "fsync", interrupt)
    else:
        monkeypatch.setattr(folder_module.Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        other.save(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    monkeypatch.undo()
    assert same(multimask.load(saved), small())


def test_a_write_between_the_two_files_is_noticed(saved: Path, tmp_path: Path) -> None:
    """Killed after the weights and before the configuration: they disagree, and that is said."""
    MaskedModel({"photo": PATCHES}, width=48, depth=1).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"weights and config.json disagree|has shape"):
        multimask.load(saved)
