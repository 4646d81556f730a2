"""Where made files are kept between runs."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def cache_folder(name: str, **made_from: Any) -> Path:
    """A folder of the user's cache for what is made from these values: other values, other folder.

    `MULTIMASK_CACHE`, else `XDG_CACHE_HOME/multimask`, else `~/.cache/multimask`. It may not exist
    yet. Values are what JSON can write.
    """
    given = os.environ.get("MULTIMASK_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimask"
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    return (Path(given) if given else base) / f"{name}-{key}"
