"""The command line: `multimask COMMAND ...`. Thin: it parses, calls the library and prints."""

import sys
from collections.abc import Sequence

COMMANDS = {
    "pretrain": "pre-train a model on your files",
    "pack": "write files into a store: few large files, read at random like raw ones",
    "finetune": "train a saved model and a head on labels, beside random weights",
    "segment": "train a saved model and a dense head on label maps, beside random weights",
    "embed": "one vector a sample, from a saved model",
    "probe": "what a saved model's vectors are worth, beside random weights",
    "evaluate": "the same for every set of a model's modalities",
    "reconstruct": "hide, answer, and draw or write what was answered",
    "fill": "complete the modalities that rows lack, as files, with how sure each token is",
    "masks": "draw any masker on files, with true counts",
    "describe": "parameters, tokens, FLOPs and shares of a model",
    "doctor": "versions, back ends found, known traps",
}


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 with one sentence when the user made a mistake."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        print("usage: multimask COMMAND [--help] [flags]\n\ncommands:")
        print("\n".join(f"  {command:<13}{what}" for command, what in COMMANDS.items()))
        return 0
    if name == "--version":
        import multimask

        print(multimask.__version__)
        return 0
    if name not in COMMANDS:
        print(
            f"multimask: error: {name!r} is no command; commands are {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    from multimask.cli import commands

    return commands.run(name, words[1:])
