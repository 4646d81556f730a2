"""Pre-training weights of MCG-NJU/VideoMAE and OpenGVLab/VideoMAEv2 (the `model` of their files).

Held against key lists written out from their code and against transformers' outputs (through
`hf_videomae`); no file of theirs was tried. Their attention has biases for queries and values
only; a key's bias cancels in the softmax, so ours is zero on the way in and dropped on the way out.
Their position tables are fixed and not in the file.
"""

import re
from collections.abc import Collection, Iterator, Mapping

import torch
from einops import rearrange
from torch import Tensor

State = Mapping[str, Tensor]

OUTER = {  # theirs: ours; {name} is the modality
    "encoder.patch_embed.proj.bias": "adapters.{name}.proj.bias",
    "encoder.norm.weight": "encoder.norm.weight",
    "encoder.norm.bias": "encoder.norm.bias",
    "encoder_to_decoder.weight": "decoder.embed.weight",
    "decoder.norm.weight": "decoder.norm.weight",
    "decoder.norm.bias": "decoder.norm.bias",
    "decoder.head.weight": "adapters.{name}.pred.weight",
    "decoder.head.bias": "adapters.{name}.pred.bias",
}
KERNEL = "encoder.patch_embed.proj.weight"
INNER = [
    f"{part}.{kind}"
    for part in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
]
FIXED = re.compile(r"(encoder|decoder)\.(pos_embed|blocks\.\d+\.attn\.scale)")


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of a pre-training file of theirs."""
    return set(keys) == set(wanted(keys)) and KERNEL in keys


def wanted(keys: Collection[str]) -> list[str]:
    """All keys of a file with as many blocks as `keys` names."""
    depths = {end: depth(keys, end) for end in ("encoder", "decoder")}
    return ["mask_token", KERNEL, *OUTER, *(key for _, key in block_keys(depths))]


def depth(keys: Collection[str], end: str) -> int:
    found = (re.match(rf"{end}\.blocks\.(\d+)\.", key) for key in keys)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def block_keys(depths: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """(block, key) of every block's weights, in their names."""
    for end, count in depths.items():
        for index in range(count):
            block = f"{end}.blocks.{index}"
            for part in (*INNER, "attn.qkv.weight", "attn.q_bias", "attn.v_bias"):
                yield block, f"{block}.{part}"


def to_ours(state: State, name: str = "video") -> dict[str, Tensor]:
    """Weights in our names, for a model made by the recipe whose one modality is `name`.

    Raises: ValueError with the first keys that are missing or not theirs.
    """
    check(state)
    ours = {our.format(name=name): state[their] for their, our in OUTER.items()}
    ours["decoder.mask_token"] = state["mask_token"].reshape(-1)
    ours[f"adapters.{name}.proj.weight"] = rearrange(state[KERNEL], "w c t y x -> w (t y x c)")
    depths = {end: depth(state, end) for end in ("encoder", "decoder")}
    for block, key in block_keys(depths):
        if key.endswith("attn.q_bias"):
            query, value = state[key], state[f"{block}.attn.v_bias"]
            ours[f"{block}.attn.qkv.bias"] = torch.cat((query, torch.zeros_like(query), value))
        elif not key.endswith("attn.v_bias"):
            ours[key] = state[key]
    norm = state["encoder.norm.weight"]
    ours["encoder.globals"] = norm.new_zeros(0, len(norm))
    return ours


def to_theirs(
    state: State, box: tuple[int, int, int], channels: int = 3, name: str = "video"
) -> dict[str, Tensor]:
    """Weights of our model in their names. `box` is the tubelet in frames and pixels.

    Raises: ValueError for models that hold more than this layout has a place for.
    """
    check_ours(state, name)
    long, tall, wide = box
    theirs = {their: state[our.format(name=name)] for their, our in OUTER.items()}
    theirs["mask_token"] = state["decoder.mask_token"].reshape(1, 1, -1)
    theirs[KERNEL] = rearrange(
        state[f"adapters.{name}.proj.weight"],
        "w (t y x c) -> w c t y x",
        t=long,
        y=tall,
        x=wide,
        c=channels,
    )
    depths = {end: depth(state, end) for end in ("encoder", "decoder")}
    for block, key in block_keys(depths):
        if key.endswith(("q_bias", "v_bias")):
            query, _, value = state[f"{block}.attn.qkv.bias"].chunk(3)
            theirs[key] = query if key.endswith("q_bias") else value
        else:
            theirs[key] = state[key]
    return theirs


def check_ours(state: State, name: str) -> None:
    depths = {end: depth(state, end) for end in ("encoder", "decoder")}
    known = {our.format(name=name) for our in OUTER.values()}
    known |= {"encoder.globals", "decoder.mask_token", f"adapters.{name}.proj.weight"}
    for block, key in block_keys(depths):
        known.add(f"{block}.attn.qkv.bias" if key.endswith("_bias") else key)
    if set(state) != known or len(state["encoder.globals"]):
        odd = min(set(state) ^ known, default="encoder.globals")
        raise ValueError(
            f"to_theirs: {odd} does not fit; this layout holds models of the recipe videomae "
            f"with the one modality {name!r}."
        )


def check(state: State) -> None:
    keys = {key for key in state if not FIXED.fullmatch(key)}
    expected = set(wanted(keys))
    missing, strange = sorted(expected - keys), sorted(keys - expected)
    if missing or strange:
        told = [f"{len(missing)} keys are missing (first {missing[0]})"] if missing else []
        told += [f"{len(strange)} are not theirs (first {strange[0]})"] if strange else []
        raise ValueError(f"these are not pre-training weights of VideoMAE: {', '.join(told)}.")
