"""Weights of transformers' ViTMAE, in all three of their key layouts.

"hub": files on the hub, and what older versions save. "disk": what transformers 5 saves, whose
decoder blocks stand under `decoder.decoder_encoder.layer`. "memory": a state dict of transformers
5. `ViTMAEModel` saves the encoder alone, without the prefix `vit.`. Their LayerNorm epsilon is
1e-12 unless the configuration says otherwise, MAE's own 1e-6.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from multimask.checkpoints.layouts import mae
from multimask.checkpoints.layouts.foreign import Foreign, State, parts_of
from multimask.model import MaskedModel

Form = Literal["hub", "disk", "memory"]

OUTER = {  # theirs: the official name
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
DECODER = {
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    **{
        f"decoder.{module}.{kind}": f"{module}.{kind}"
        for module in ("decoder_embed", "decoder_norm", "decoder_pred")
        for kind in ("weight", "bias")
    },
}
OLD = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
NEW = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
OLD_THIRDS = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
NEW_THIRDS = tuple(f"attention.{name}_proj" for name in ("q", "k", "v"))
STEMS: dict[Form, tuple[str, str]] = {
    "hub": ("encoder.layer", "decoder.decoder_layers"),
    "disk": ("encoder.layer", "decoder.decoder_encoder.layer"),
    "memory": ("layers", "decoder.decoder_layers"),
}
BLOCK = re.compile(
    r"(encoder\.layer|layers|decoder\.decoder_layers|decoder\.decoder_encoder\.layer)\.(\d+)\.(.+)"
)


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of a ViTMAE of transformers."""
    if "fc_norm.weight" in keys or not (
        {"embeddings.cls_token", "vit.embeddings.cls_token"} & {*keys}
    ):
        return False
    official = {official_key(key) for key in keys}
    return None not in official and official == mae.wanted({str(key) for key in official})


def official_key(key: str) -> str | None:
    """The official name of an entry, None for what is not theirs; thirds of one matrix share it."""
    plain = key.removeprefix("vit.")
    if plain in OUTER or key in DECODER:
        return OUTER.get(plain) or DECODER[key]
    block = BLOCK.fullmatch(plain)
    if block is None:
        return None
    stem = "decoder_blocks" if block[1].startswith("decoder.") else "blocks"
    module, _, kind = block[3].rpartition(".")
    if module in (*OLD_THIRDS, *NEW_THIRDS):
        return f"{stem}.{block[2]}.attn.qkv.{kind}"
    for names in (OLD, NEW):
        for official, theirs in names.items():
            if module == theirs:
                return f"{stem}.{block[2]}.{official}.{kind}"
    return None


def to_official(state: State) -> dict[str, Tensor]:
    """Their entries in the names of facebookresearch/mae. Raises ValueError for foreign keys."""
    made: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        official = official_key(key)
        if official is None:
            raise ValueError(f"hf-vitmae layout: {key!r} is no entry of theirs.")
        module = key.rpartition(".")[0]
        place = next(
            (
                i
                for names in (OLD_THIRDS, NEW_THIRDS)
                for i in range(3)
                if module.endswith(names[i])
            ),
            None,
        )
        if place is None:
            made[official] = value
        else:
            thirds.setdefault(official, {})[place] = value
    for official, found in thirds.items():
        if len(found) != 3:
            raise ValueError(f"hf-vitmae layout: {official} lacks its query, key or value.")
        made[official] = torch.cat([found[index] for index in range(3)])
    return made


def from_official(state: State, form: Form = "hub") -> dict[str, Tensor]:
    """Official entries in theirs; with `vit.` where there is a decoder."""
    inner, thirds = (NEW, NEW_THIRDS) if form == "memory" else (OLD, OLD_THIRDS)
    prefix = "vit." if "mask_token" in state else ""
    outer = {official: f"{prefix}{theirs}" for theirs, official in OUTER.items()}
    outer |= {official: theirs for theirs, official in DECODER.items()}
    made: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in outer:
            made[outer[key]] = value
            continue
        block = re.fullmatch(r"(decoder_blocks|blocks)\.(\d+)\.(.+)\.(weight|bias)", key)
        if block is None:
            raise ValueError(f"hf-vitmae layout: it has no place for {key!r}.")
        stem = f"{prefix}{STEMS[form][0]}" if block[1] == "blocks" else STEMS[form][1]
        if block[3] == "attn.qkv":
            for name, part in zip(thirds, value.chunk(3), strict=True):
                made[f"{stem}.{block[2]}.{name}.{block[4]}"] = part.contiguous()
        else:
            made[f"{stem}.{block[2]}.{inner[block[3]]}.{block[4]}"] = value
    return made


def read(state: State, facts: mae.Facts) -> Foreign:
    """Their entries as a model of ours. Raises: ValueError for other keys."""
    return mae.read(to_official(state), facts)


def write(model: MaskedModel, form: Form = "hub") -> dict[str, Tensor]:
    """The model's weights in their names. Raises: ValueError for one that they cannot hold."""
    return from_official(mae.write(model), form)


def facts_of(configs: Mapping[str, Any]) -> dict[str, Any]:
    """What their `config.json` and `preprocessor_config.json` say."""
    config = dict(configs.get("config.json") or {})
    found: dict[str, Any] = {"eps": 1e-12, "normalise": False}
    if config:
        size = config.get("image_size", 224)
        found |= {
            "size": (size, size) if isinstance(size, int) else tuple(size),
            "heads": config.get("num_attention_heads", 12),
            "decoder_heads": config.get("decoder_num_attention_heads", 16),
            "eps": config.get("layer_norm_eps", 1e-12),
            "normalise": config.get("norm_pix_loss", False),
        }
    processor = dict(configs.get("preprocessor_config.json") or {})
    if "image_mean" in processor and "image_std" in processor:
        found |= {name: tuple(processor[f"image_{name}"]) for name in ("mean", "std")}
    return found


def files(model: MaskedModel) -> dict[str, dict[str, Any]]:
    """The configurations that belong to these weights."""
    parts = parts_of(model, "hf-vitmae layout", axes=2)
    height, width = (cells * side for cells, side in zip(parts.grid, parts.box, strict=True))
    if height != width or parts.box[0] != parts.box[1]:
        raise ValueError(
            f"hf-vitmae layout: its configuration holds square pictures and patches, not "
            f"{height}x{width} pixels and {parts.box[0]}x{parts.box[1]}."
        )
    encoder, decoder = parts.encoder, parts.decoder
    (name,) = model.slots
    tokenizer: Any = model.tokenizers[name]
    adapter: Any = model.adapters[name]
    config: dict[str, Any] = {
        "architectures": ["ViTMAEModel" if decoder is None else "ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "image_size": height,
        "patch_size": parts.box[0],
        "num_channels": parts.channels,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": cast(Any, encoder.blocks[0]).attn.heads,
        "intermediate_size": len(parts.state["encoder.blocks.0.mlp.fc1.bias"]),
        "hidden_act": "gelu",
        "qkv_bias": "encoder.blocks.0.attn.qkv.bias" in parts.state,
        "layer_norm_eps": cast(Any, encoder.blocks[0]).norm1.eps,
        "norm_pix_loss": adapter.target.unit == "patch",
        "mask_ratio": 0.75,
    }
    if decoder is not None:
        config |= {
            "decoder_hidden_size": decoder.width,
            "decoder_num_hidden_layers": decoder.depth,
            "decoder_num_attention_heads": cast(Any, decoder.blocks[0]).attn.heads,
            "decoder_intermediate_size": len(parts.state["decoder.blocks.0.mlp.fc1.bias"]),
        }
    statistics = {
        f"image_{name}": np.broadcast_to(getattr(tokenizer, name), parts.channels).tolist()
        for name in ("mean", "std")
    }
    size = {"height": height, "width": width}
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "rescale_factor": 1 / 255,
        "size": size,
        **statistics,
    }
    return {"config.json": config, "preprocessor_config.json": processor}
