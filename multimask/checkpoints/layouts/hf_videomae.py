"""Weights of transformers' `VideoMAEForPreTraining`, as files hold them and as they are in memory.

Files say `q_bias` and `v_bias`, transformers 5 says `query.bias` and `value.bias` in memory; both
are read. Their LayerNorm epsilon is 1e-12 (1e-5 in the decoder's last norm) where the official
code has 1e-6: say `eps=` to the recipe. Fresh models without `videomae.layernorm`
(`use_mean_pooling`) lack the encoder's last norm and are refused.
"""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from multimask.checkpoints.layouts import videomae

State = Mapping[str, Tensor]

OUTER = {
    "videomae.embeddings.patch_embeddings.projection": "encoder.patch_embed.proj",
    "videomae.layernorm": "encoder.norm",
}
BLOCKS = {"videomae.encoder.layer": "encoder.blocks", "decoder.decoder_layers": "decoder.blocks"}
INNER = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
BLOCK_KEY = re.compile(r"(videomae\.encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)")
THIRDS = ("query", "key", "value")


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of `VideoMAEForPreTraining`."""
    official = {official_key(key) for key in keys}
    return "videomae.layernorm.weight" in keys and videomae.matches(official)


def official_key(key: str) -> str:
    """A key in the official code's names; query, key and value weights share one name there."""
    block = BLOCK_KEY.fullmatch(key)
    if block is None:
        module, _, kind = key.rpartition(".")
        return f"{OUTER.get(module, module)}.{kind}" if module else kind
    place = f"{BLOCKS[block[1]]}.{block[2]}"
    module, _, kind = block[3].rpartition(".")
    if module in INNER:
        return f"{place}.{INNER[module]}.{kind}"
    third = block[3].removeprefix("attention.attention.")
    if third in ("q_bias", "query.bias"):
        return f"{place}.attn.q_bias"
    if third in ("v_bias", "value.bias"):
        return f"{place}.attn.v_bias"
    if third in [f"{name}.weight" for name in THIRDS]:
        return f"{place}.attn.qkv.weight"
    return key


def to_official(state: State) -> dict[str, Tensor]:
    official: dict[str, Tensor] = {}
    for key in state:
        name = official_key(key)
        if not name.endswith("attn.qkv.weight"):
            official[name] = state[key]
        elif key.endswith("query.weight"):
            stem = key.removesuffix("query.weight")
            thirds = [state.get(f"{stem}{third}.weight") for third in THIRDS]
            if all(third is not None for third in thirds):
                official[name] = torch.cat([third for third in thirds if third is not None])
    return official


def to_ours(state: State, name: str = "video") -> dict[str, Tensor]:
    """Weights in our names, for a model made by the recipe whose one modality is `name`.

    Raises: ValueError with the first keys that are missing or not theirs, in the official names.
    """
    return videomae.to_ours(to_official(state), name)


def to_theirs(
    state: State,
    box: tuple[int, int, int],
    channels: int = 3,
    name: str = "video",
    in_memory: bool = False,
) -> dict[str, Tensor]:
    """Weights of our model in the names of their files, or of their model in memory."""
    official = videomae.to_theirs(state, box, channels, name)
    biases = ("query.bias", "value.bias") if in_memory else ("q_bias", "v_bias")
    theirs: dict[str, Tensor] = {}
    for key, value in official.items():
        block = re.fullmatch(r"((?:encoder|decoder)\.blocks)\.(\d+)\.(.+)", key)
        if block is None:
            module, _, kind = key.rpartition(".")
            renamed = {our: their for their, our in OUTER.items()}.get(module, module)
            theirs[f"{renamed}.{kind}" if module else key] = value
            continue
        place = f"{ {our: their for their, our in BLOCKS.items()}[block[1]] }.{block[2]}"
        if block[3] == "attn.qkv.weight":
            for third, part in zip(THIRDS, value.chunk(3), strict=True):
                theirs[f"{place}.attention.attention.{third}.weight"] = part
        elif block[3] in ("attn.q_bias", "attn.v_bias"):
            bias = biases[block[3] == "attn.v_bias"]
            theirs[f"{place}.attention.attention.{bias}"] = value
        else:
            module, _, kind = block[3].rpartition(".")
            theirs[f"{place}.{ {our: their for their, our in INNER.items()}[module] }.{kind}"] = (
                value
            )
    return theirs
