"""Point-MAE's own weights (Pang-Yatian/Point-MAE, pre-training): 209 entries.

The file is a dict whose `base_model` holds them, with or without a `module.` prefix. Checked
against a key list built from the published class; no released file was tried.
"""

from collections.abc import Collection, Mapping

from torch import Tensor

from multimask.model import MaskedModel

HEADS = ("MAE_encoder.", "MAE_decoder.", "decoder_pos_embed.", "increase_dim.", "mask_token")
NET = "MAE_encoder.encoder."
# theirs to ours, `@` being the modality's adapter; ours keeps 1x1 convolutions as linear layers
RENAMED = {
    "mask_token": "decoder.mask_token",
    "increase_dim.0": "@.pred",
    "decoder_pos_embed.0": "@.decoder_position.fc1",
    "decoder_pos_embed.2": "@.decoder_position.fc2",
    "MAE_encoder.pos_embed.0": "@.position.fc1",
    "MAE_encoder.pos_embed.2": "@.position.fc2",
    "MAE_encoder.encoder.first_conv.0": "@.net.fc1",
    "MAE_encoder.encoder.first_conv.1": "@.net.norm1",
    "MAE_encoder.encoder.first_conv.3": "@.net.fc2",
    "MAE_encoder.encoder.second_conv.0": "@.net.fc3",
    "MAE_encoder.encoder.second_conv.1": "@.net.norm2",
    "MAE_encoder.encoder.second_conv.3": "@.net.fc4",
    "MAE_encoder.norm": "encoder.norm",
    "MAE_encoder.blocks.blocks": "encoder.blocks",
    "MAE_decoder.norm": "decoder.norm",
    "MAE_decoder.blocks": "decoder.blocks",
}
OURS = {ours: theirs for theirs, ours in RENAMED.items()}


def matches(keys: Collection[str]) -> bool:
    """Whether these are the keys of a Point-MAE pre-training checkpoint."""
    plain = [key.removeprefix("module.") for key in keys]
    return (
        bool(plain)
        and all(key.startswith(HEADS) for key in plain)
        and f"{NET}first_conv.0.weight" in plain
        and "increase_dim.0.weight" in plain
    )


def to_ours(state: Mapping[str, Tensor], modality: str = "points") -> dict[str, Tensor]:
    """Their entries under the names of a `point_mae` model with one modality of this name.

    Raises: ValueError for an entry that Point-MAE does not have.
    """
    made = {}
    for key, value in state.items():
        plain = key.removeprefix("module.")
        ours = renamed(plain, RENAMED)
        if ours is None:
            raise ValueError(f"Point-MAE layout: {key!r} is no entry of a pre-training checkpoint.")
        flat = value.reshape(-1) if plain == "mask_token" else value
        is_conv = plain.endswith("weight") and value.ndim == 3
        made[ours.replace("@", f"adapters.{modality}")] = flat.squeeze(-1) if is_conv else flat
    return made


def to_theirs(model: MaskedModel) -> dict[str, Tensor]:
    """A `point_mae` model's weights under their names and shapes.

    Raises: ValueError for a model with several modalities or weights that Point-MAE has not.
    """
    if len(model.slots) != 1:
        raise ValueError(
            f"Point-MAE layout: it holds one modality, the model has {', '.join(model.slots)}."
        )
    (modality,) = model.slots
    made = {}
    for key, value in model.state_dict().items():
        if not value.numel():
            continue  # an encoder without class tokens keeps an empty table of them
        theirs = renamed(key.replace(f"adapters.{modality}", "@"), OURS)
        if theirs is None:
            raise ValueError(f"Point-MAE layout: it has no place for {key!r}.")
        made[theirs] = shaped(theirs, value)
    return made


def renamed(key: str, names: Mapping[str, str]) -> str | None:
    """The key with its leading part renamed; None when no name fits."""
    for old, new in names.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return None


def shaped(theirs: str, value: Tensor) -> Tensor:
    if theirs == "mask_token":
        return value.reshape(1, 1, -1)
    convolution = theirs.startswith((NET, "increase_dim."))
    return value[..., None] if convolution and value.ndim == 2 else value
