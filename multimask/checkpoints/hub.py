"""Models on the Hugging Face Hub, by its client (the extra `hub`). Our folders and theirs."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multimask.checkpoints.folder import write_whole
from multimask.checkpoints.foreign import Tell, load
from multimask.modality import Tokenizer
from multimask.model import MaskedModel

WANTED = ("*.json", "*.safetensors")
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def client() -> Any:
    """The Hub's library. Raises ImportError that says how to install it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("the Hub needs its client: pip install 'multimask[hub]'.") from error
    return huggingface_hub


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    torch_files: bool = False,
    classes: Mapping[str, type] | None = None,
    layout: str | None = None,
    modalities: Mapping[str, Tokenizer] | None = None,
    tell: Tell | None = print,
    **facts: Any,
) -> MaskedModel:
    """A model from the Hub, `owner/name`, or from a local folder; else as `multimask.load`.

    Only JSON and safetensors are fetched; `torch_files` also fetches `.bin` and `.pth`, which are
    read without running what they hold. A name is fetched only where no folder is called so.
    Raises: ImportError without the client; ValueError for what is no name; what `load` raises.
    """
    folder = Path(name)
    if not folder.exists():
        if not NAME.fullmatch(str(name)):
            raise ValueError(f"{name}: is no folder here, and no name (owner/name) on the Hub.")
        patterns = [*WANTED, *(("*.bin", "*.pth") if torch_files else ())]
        fetched = client().snapshot_download(str(name), revision=revision, allow_patterns=patterns)
        folder = Path(fetched)
    return load(folder, classes, layout=layout, modalities=modalities, tell=tell, **facts)


def push_to_hub(
    model: MaskedModel,
    name: str,
    *,
    layout: str | None = None,
    private: bool = False,
    message: str = "Model of multimask",
    api: Any = None,
) -> str:
    """Upload the model as a folder of ours, or in another project's layout; gives the address.

    The login is the client's own (`hf auth login`). api: its `HfApi`, for other servers.
    """
    api = client().HfApi() if api is None else api
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if layout is None:
            model.save(folder)
        else:
            model.export(folder, layout)
        write_whole(folder / "README.md", card(model, name, layout).encode())
        api.create_repo(name, private=private, exist_ok=True, repo_type="model")
        return str(
            api.upload_folder(
                repo_id=name, folder_path=str(folder), commit_message=message, repo_type="model"
            )
        )


def card(model: MaskedModel, name: str, layout: str | None) -> str:
    """The page that the Hub shows."""
    kinds = ", ".join(f"`{key}` ({type(t).__name__})" for key, t in model.tokenizers.items())
    form = "" if layout is None else f" Its weights have the names of the layout `{layout}`."
    return (
        "---\nlibrary_name: multimask\ntags:\n- masked-autoencoder\n---\n\n"
        f"# {name}\n\nPre-trained with multimask on {kinds}.{form}\n\n"
        "```python\nfrom multimask.checkpoints.hub import from_pretrained\n\n"
        f'model = from_pretrained("{name}")\n```\n'
    )
