"""Flags come from one dataclass, from a file, or both; mistakes are one sentence and status 2."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from multimask.cli.flags import from_command_line, guarded, to_yaml
from multimask.cli.study import RunFlags, with_defaults


@dataclass(frozen=True, kw_only=True)
class Config:
    """A test's configuration."""

    data: Annotated[Path | None, "files"] = None
    size: Annotated[int | tuple[int, ...] | None, "pixels"] = None
    method: Annotated[Literal["mae", "other"], "how"] = "mae"
    fields: Annotated[tuple[str, ...], "names"] = ()
    flip: Annotated[bool, "mirror 50 % of them"] = True
    ratio: Annotated[float, "share"] = 0.75


def test_flags_are_read_by_the_types_of_fields() -> None:
    words = [
        "--data",
        "a/b",
        "--size",
        "96x160",
        "--fields",
        "a=1,b=2",
        "--no-flip",
        "--ratio",
        "0.5",
    ]
    wanted = Config(data=Path("a/b"), size=(96, 160), fields=("a=1", "b=2"), flip=False, ratio=0.5)
    assert from_command_line(Config, words) == wanted


def test_a_written_configuration_reads_back_and_flags_override_it(tmp_path: Path) -> None:
    config = Config(data=Path("x"), size=(4, 8), fields=("a", "b"), flip=False, ratio=0.25)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert from_command_line(Config, ["--config", str(file)]) == config
    assert from_command_line(Config, ["--config", str(file), "--ratio", "0.5"]).ratio == 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ratio: much", "ratio"),
        ("speed: 3", "unknown speed"),
        ("method: best", "must be one of mae, other"),
        ("- a", "expected names and values"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_configuration_file_is_told_in_one_line(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        from_command_line(Config, ["--config", str(file)])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_a_users_mistake_is_one_sentence_and_a_bug_keeps_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def mistaken() -> None:
        raise ValueError("the size must be positive.")

    def wrong() -> None:
        raise TypeError("a bug")

    assert guarded(mistaken, "program") == 2
    assert capsys.readouterr().err == "program: error: the size must be positive.\n"
    with pytest.raises(TypeError):
        guarded(wrong)


def test_help_tells_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        from_command_line(Config, ["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert "--ratio X share (default: 0.75)" in told
    assert "mirror 50 % of them" in told


def test_what_is_left_open_takes_what_suits_the_data() -> None:
    suits = {"epochs": 12, "width": 96, "decoder_width": 64, "lr": 2e-3, "warmup": 0.1}
    filled = with_defaults(RunFlags(epochs=0, warmup=0.0), suits)
    assert (filled.epochs, filled.width, filled.lr, filled.warmup) == (12, 96, 2e-3, 0.0)
    sized = with_defaults(RunFlags(epochs=3, size="small", decoder_width=32), suits)
    assert (sized.epochs, sized.width, sized.decoder_width, sized.lr) == (3, None, 32, 2e-3)
