"""Weights of MultiMAE (EPFL-VILAB/MultiMAE, key `model` of its files), and timm's ViT beside them.

Held against a key list written out from their code and, in outputs, against a restatement of it; no
file of theirs was tried. One decoder position table a modality is ours, one an output theirs: they
are equal as published, and going over they must be.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor

from multimask import plugins
from multimask.checkpoints.layouts.foreign import Foreign, State, heads_of, told_difference
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.nn.task_decoders import TaskDecoders

KINDS = ("weight", "bias")
INNER = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
TASK = {  # of an output: theirs to ours
    "proj_context": "embed",
    "decoder.q": "xattn.q",
    "decoder.kv": "xattn.kv",
    "decoder.proj": "xattn.proj",
    "query_norm": "query_norm",
    "context_norm": "context_norm",
    "out_norm": "out_norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
NESTED = ("depth",)  # whose adapter holds a linear one


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of a MultiMAE pre-training file."""
    return bool(inputs_of(keys)) and bool(outputs_of(keys)) and set(keys) == wanted(keys)


@dataclass(frozen=True)
class Facts:
    """What the weights do not tell. stride: of label maps, in pixels of the pictures."""

    heads: int | None = None
    decoder_heads: int = 8
    stride: int = 4


def read(state: State, facts: Facts) -> Foreign:
    """Their entries as a model of ours. Outputs that are no inputs (`norm_rgb`) belong to the
    objective of pre-training: `to_ours` gives them, a model has no use for them."""
    if not matches(state):
        raise ValueError(f"multimae layout: {told_difference(state, wanted(state))}")
    weights, extra = to_ours(state)
    tokenizers = {name: tokenizer_of(state, name, facts.stride) for name in inputs_of(state)}
    width = state["global_tokens"].shape[2]
    first = f"output_adapters.{outputs_of(state)[0]}"
    model = plugins.load("methods", "multimae")(
        tokenizers,
        width=width,
        depth=depth(state, "encoder"),
        heads=facts.heads or heads_of(width, "heads"),
        decoder_width=state[f"{first}.mask_token"].shape[2],
        decoder_depth=depth(state, f"{first}.decoder_transformer"),
        decoder_heads=facts.decoder_heads,
        normed=(),
    ).model
    model.load_state_dict(weights)
    unused = sorted({key.split(".")[1] for key in extra})
    return Foreign(model.eval(), tuple(f"output_adapters.{name}" for name in unused))


def tokenizer_of(state: State, name: str, stride: int) -> Tokenizer:
    stem = f"input_adapters.{name}"
    kernel, side = state[f"{stem}.proj.weight"], state[f"{stem}.pos_emb"].shape[-1]
    patch, channels = kernel.shape[-1], kernel.shape[1]
    if f"{stem}.class_emb.weight" in state:
        classes, numbers = state[f"{stem}.class_emb.weight"].shape
        sizes = side * patch * stride, patch * stride, stride
        return plugins.load("modalities", "label-map")(classes, *sizes, width=numbers)
    if name in NESTED:
        return plugins.load("modalities", "depth-map")(side * patch, patch)
    return plugins.load("modalities", "image")(side * patch, patch, channels)


def write(model: MaskedModel) -> dict[str, Tensor]:
    """The model's weights in their names, without outputs that only pre-training has.

    Raises: ValueError for a model that this layout cannot hold.
    """
    decoder = model.decoder
    if not isinstance(decoder, TaskDecoders) or set(decoder.tasks) != set(model.slots):
        raise ValueError("multimae layout: it holds a decoder an output (`TaskDecoders`).")
    state = {k: v.detach().cpu() for k, v in cast(dict[str, Tensor], model.state_dict()).items()}
    sides = {name: getattr(t, "patch", None) for name, t in model.tokenizers.items()}
    patches = {(side, side) if isinstance(side, int) else side for side in sides.values()}
    (patch,) = patches if len(patches) == 1 else (None,)
    if patch is None or any(f"{adapter_of(n)}.position.table" not in state for n in sides):
        raise ValueError(
            f"multimae layout: it holds maps of one patch size with tables, not {sides}."
        )
    strides = {s for t in model.tokenizers.values() if (s := getattr(t, "stride", None))}
    if len(strides) > 1:
        raise ValueError(f"multimae layout: it holds label maps of one stride, not {strides}.")
    made = to_theirs(state, None, patch, next(iter(strides), 1))
    return {key: value.clone().contiguous() for key, value in made.items()}


def inputs_of(keys: Collection[str]) -> list[str]:
    return sorted({key.split(".")[1] for key in keys if key.startswith("input_adapters.")})


def outputs_of(keys: Collection[str]) -> list[str]:
    return sorted({key.split(".")[1] for key in keys if key.startswith("output_adapters.")})


def depth(keys: Collection[str], stem: str) -> int:
    found = (re.match(rf"{re.escape(stem)}\.(\d+)\.norm1\.weight", key) for key in keys)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def wanted(keys: Collection[str]) -> set[str]:
    """All keys of a file with as many inputs, outputs and blocks as `keys` names."""
    names = {"global_tokens"}
    for name in inputs_of(keys):
        stem = f"input_adapters.{name}"
        names |= {f"{stem}.pos_emb"} | {f"{stem}.proj.{kind}" for kind in KINDS}
        names |= {key for key in keys if key == f"{stem}.class_emb.weight"}
    names |= block_names(keys, "encoder")
    for name in outputs_of(keys):
        stem = f"output_adapters.{name}"
        names |= {f"{stem}.mask_token", f"{stem}.pos_emb"}
        names |= {f"{stem}.task_embeddings.{each}" for each in inputs_of(keys)}
        names |= {f"{stem}.{m}.{k}" for m in (*TASK, "out_proj") for k in KINDS}
        names |= block_names(keys, f"{stem}.decoder_transformer")
    return names


def block_names(keys: Collection[str], stem: str) -> set[str]:
    count = depth(keys, stem)
    return {f"{stem}.{i}.{m}.{k}" for i in range(count) for m in INNER for k in KINDS}


def to_ours(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Their entries as the states of a `multimae` model and of its objective.

    An output that is no input (`norm_rgb`) belongs to the objective and answers for the input whose
    name ends it. Raises: ValueError for other keys, and positions that differ between outputs.
    """
    if not matches(state):
        raise ValueError("MultiMAE layout: these are not the keys of a MultiMAE file.")
    inputs, outputs = inputs_of(state), outputs_of(state)
    places = decoder_places(state, outputs)
    model = {"encoder.globals": state["global_tokens"][0]}
    objective: dict[str, Tensor] = {}
    model |= renamed_blocks(state, "encoder", "encoder.blocks")
    for name in inputs:
        theirs, ours = f"input_adapters.{name}", adapter_of(name)
        kernel = state[f"{theirs}.proj.weight"]
        model[f"{ours}.proj.weight"] = rearrange(kernel, "w c y x -> w (y x c)").contiguous()
        model[f"{ours}.proj.bias"] = state[f"{theirs}.proj.bias"]
        model[f"{ours}.position.table"] = flat(state[f"{theirs}.pos_emb"])
        model[f"{ours}.decoder_position.table"] = places.clone()
        if f"{theirs}.class_emb.weight" in state:
            model[f"{ours}.class_emb.weight"] = state[f"{theirs}.class_emb.weight"]
    for name in outputs:
        source = modality_of(name, inputs)
        made = model if name in inputs else objective
        stem = "decoder" if name in inputs else f"outputs.{name}.decoder"
        made |= task_to_ours(state, f"output_adapters.{name}", f"{stem}.tasks.{source}", inputs)
        head = adapter_of(name) if name in inputs else f"outputs.{name}"
        pixels = kernel_pixels(state, source)
        for kind in KINDS:
            rows = state[f"output_adapters.{name}.out_proj.{kind}"]
            made[f"{head}.pred.{kind}"] = rearrange(
                rows.reshape(len(rows), -1), "(c p) k -> (p c) k", p=pixels
            ).reshape(rows.shape)
    return model, objective


def to_theirs(
    model: State, objective: State | None = None, patch: tuple[int, int] = (16, 16), stride: int = 4
) -> dict[str, Tensor]:
    """The states of a `multimae` model and its objective under their names.

    patch: pixels of pictures and depth; stride: of label maps. Raises: ValueError where decoder
    positions differ between modalities, since theirs share one.
    """
    objective = objective or {}
    inputs = sorted({key.split(".")[1] for key in model if key.startswith("adapters.")})
    tables = [model[f"{adapter_of(name)}.decoder_position.table"] for name in inputs]
    if any(not torch.equal(table, tables[0]) for table in tables):
        raise ValueError("MultiMAE layout: decoder positions differ between modalities.")
    made = {"global_tokens": model["encoder.globals"][None]}
    made |= renamed_blocks(model, "encoder.blocks", "encoder")
    sides: dict[str, tuple[int, int]] = {}
    for name in inputs:
        theirs, ours = f"input_adapters.{name}", adapter_of(name)
        labelled = f"{ours}.class_emb.weight" in model
        sides[name] = (patch[0] // stride, patch[1] // stride) if labelled else patch
        tall, wide = sides[name]
        made[f"{theirs}.proj.weight"] = rearrange(
            model[f"{ours}.proj.weight"], "w (y x c) -> w c y x", y=tall, x=wide
        ).contiguous()
        made[f"{theirs}.proj.bias"] = model[f"{ours}.proj.bias"]
        made[f"{theirs}.pos_emb"] = square(model[f"{ours}.position.table"])
        if labelled:
            made[f"{theirs}.class_emb.weight"] = model[f"{ours}.class_emb.weight"]
    extra = sorted({key.split(".")[1] for key in objective if key.startswith("outputs.")})
    for name in (*inputs, *extra):
        source = modality_of(name, inputs)
        state = model if name in inputs else objective
        stem = "decoder" if name in inputs else f"outputs.{name}.decoder"
        theirs = f"output_adapters.{name}"
        made |= task_to_theirs(state, f"{stem}.tasks.{source}", theirs, inputs)
        made[f"{theirs}.pos_emb"] = square(tables[0])
        head = adapter_of(name) if name in inputs else f"outputs.{name}"
        pixels = sides[source][0] * sides[source][1]
        for kind in KINDS:
            rows = state[f"{head}.pred.{kind}"]
            made[f"{theirs}.out_proj.{kind}"] = rearrange(
                rows.reshape(len(rows), -1), "(p c) k -> (c p) k", p=pixels
            ).reshape(rows.shape)
    return made


# --- timm -----------------------------------------------------------------------------------------


def from_timm(state: State, modality: str = "rgb") -> dict[str, Tensor]:
    """A timm ViT's weights as those of a MultiMAE file that it has: encoder, one input, the global
    token. Its final norm, which MultiMAE lacks, and its head are left behind."""
    if "cls_token" not in state or "pos_embed" not in state:
        raise ValueError("timm layout: expected a ViT with cls_token and pos_embed.")
    place, stem = state["pos_embed"], f"input_adapters.{modality}"
    made = {
        "global_tokens": state["cls_token"] + place[:, :1],
        f"{stem}.pos_emb": square(place[0, 1:]),
        f"{stem}.proj.weight": state["patch_embed.proj.weight"],
        f"{stem}.proj.bias": state["patch_embed.proj.bias"],
    }
    return made | renamed_blocks(state, "blocks", "encoder")


def to_timm(state: State, modality: str = "rgb") -> dict[str, Tensor]:
    """A MultiMAE file's encoder as a timm ViT without norm and head; the class token's position is
    zero, being part of the token already."""
    stem = f"input_adapters.{modality}"
    table = flat(state[f"{stem}.pos_emb"])
    nowhere = torch.zeros_like(table[:1])
    made = {
        "cls_token": state["global_tokens"],
        "pos_embed": torch.cat((nowhere, table))[None],
        "patch_embed.proj.weight": state[f"{stem}.proj.weight"],
        "patch_embed.proj.bias": state[f"{stem}.proj.bias"],
    }
    return made | renamed_blocks(state, "encoder", "blocks")


# --- pieces ---------------------------------------------------------------------------------------


def adapter_of(name: str) -> str:
    return f"adapters.{name}.linear" if name in NESTED else f"adapters.{name}"


def modality_of(output: str, inputs: Collection[str]) -> str:
    found = output if output in inputs else output.rpartition("_")[2]
    if found not in inputs:
        raise ValueError(f"MultiMAE layout: output {output!r} answers for none of {inputs}.")
    return found


def renamed_blocks(state: State, old: str, new: str) -> dict[str, Tensor]:
    pattern = re.compile(rf"{re.escape(old)}\.(\d+)\.({'|'.join(map(re.escape, INNER))})\.(\w+)")
    found = ((pattern.fullmatch(key), value) for key, value in state.items())
    return {f"{new}.{m[1]}.{m[2]}.{m[3]}": value for m, value in found if m}


def task_to_ours(
    state: State, theirs: str, ours: str, inputs: Collection[str]
) -> dict[str, Tensor]:
    made = {f"{ours}.mask_token": state[f"{theirs}.mask_token"].flatten()}
    for name in inputs:
        made[f"{ours}.tasks.{name}"] = state[f"{theirs}.task_embeddings.{name}"].flatten()
    for old, new in TASK.items():
        made |= {f"{ours}.{new}.{kind}": state[f"{theirs}.{old}.{kind}"] for kind in KINDS}
    return made | renamed_blocks(state, f"{theirs}.decoder_transformer", f"{ours}.blocks")


def task_to_theirs(
    state: State, ours: str, theirs: str, inputs: Collection[str]
) -> dict[str, Tensor]:
    made = {f"{theirs}.mask_token": state[f"{ours}.mask_token"][None, None]}
    for name in inputs:
        made[f"{theirs}.task_embeddings.{name}"] = state[f"{ours}.tasks.{name}"][None, None]
    for old, new in TASK.items():
        made |= {f"{theirs}.{old}.{kind}": state[f"{ours}.{new}.{kind}"] for kind in KINDS}
    return made | renamed_blocks(state, f"{ours}.blocks", f"{theirs}.decoder_transformer")


def decoder_places(state: State, outputs: Collection[str]) -> Tensor:
    tables = [state[f"output_adapters.{name}.pos_emb"] for name in outputs]
    if not tables or any(not torch.equal(table, tables[0]) for table in tables):
        raise ValueError("MultiMAE layout: positions differ between outputs, or there are none.")
    return flat(tables[0])


def kernel_pixels(state: State, name: str) -> int:
    return state[f"input_adapters.{name}.proj.weight"][0, 0].numel()


def flat(table: Tensor) -> Tensor:
    """(1, w, rows, columns) to (n, w)."""
    return rearrange(table, "1 w y x -> (y x) w").contiguous()


def square(table: Tensor) -> Tensor:
    side = round(len(table) ** 0.5)
    if side**2 != len(table):
        raise ValueError(f"MultiMAE layout: {len(table)} tokens are no square lattice.")
    return rearrange(table, "(y x) w -> 1 w y x", y=side).contiguous()
