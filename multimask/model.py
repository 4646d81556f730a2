"""MaskedModel: tokenize, encode, decode. What is kept after pre-training; it weighs no loss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multimask.buckets import by_shape, merged
from multimask.filling import answered, only, warn_unseen
from multimask.masking.context import Context
from multimask.masking.masker import Masker, everything
from multimask.modality import (
    Adapter,
    BringsAdapter,
    BringsAdapterFor,
    HasGrid,
    Tokenizer,
    Untokenizes,
)
from multimask.nn.adapters import LinearAdapter, Target
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder, Places
from multimask.packing import arranged, coords_at, places_in_rows, with_picks
from multimask.plugins import remembers_arguments
from multimask.reconstruct import Reconstructed, reconstruct
from multimask.tokens import (
    Batch,
    Latents,
    Masking,
    Picks,
    Step,
    TokenBatch,
    Tokens,
    slots_of,
)

if TYPE_CHECKING:
    from multimask.describe import Description


@remembers_arguments
class MaskedModel(nn.Module):
    """Adapters, a shared encoder and a decoder over any set of modalities.

    Args:
        modalities: a tokenizer per modality name; several may be of one kind.
        encoder, decoder: ready modules; when not given they are built from width, depth, heads
            and decoder_width, decoder_depth, decoder_heads. `decoder=False` builds none.
        adapters: ready adapters by modality; default the tokenizer's own, else linear ones.
        target: how linear adapters normalise what they regress.
        max_tokens: slots of modalities whose tokenizer has no fixed number of tokens.

    >>> from multimask.modalities.image import ImagePatches
    >>> model = MaskedModel({"photo": ImagePatches(size=32, patch=8)}, width=48, depth=2, heads=3)
    >>> model.slots
    {'photo': range(0, 16)}
    """

    arguments: dict[str, object]
    seen: tuple[tuple[str, ...], ...] | None = None
    """Sets of modalities that the encoder read in training, sorted; None where nobody noted."""

    def __init__(
        self,
        modalities: Mapping[str, Tokenizer],
        encoder: nn.Module | None = None,
        decoder: nn.Module | bool | None = None,
        adapters: Mapping[str, nn.Module] | None = None,
        target: Target = Target(),  # noqa: B008 - frozen
        max_tokens: Mapping[str, int] | None = None,
        *,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        decoder_width: int = 128,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
    ) -> None:
        super().__init__()
        if not modalities:
            raise ValueError("MaskedModel: give at least one modality, name to tokenizer.")
        for name in modalities:
            check_name(name)
        self.tokenizers = {name: modalities[name] for name in sorted(modalities)}
        self.num_tokens = {
            name: slot_count(name, tokenizer, max_tokens or {})
            for name, tokenizer in self.tokenizers.items()
        }
        self.slots = slots_of(self.num_tokens)
        self.encoder = encoder or Encoder(width, depth, heads)
        encoder_width = cast(int, self.encoder.width)
        if decoder is False:
            self.decoder = None
        elif isinstance(decoder, nn.Module):
            self.decoder = decoder
        else:
            self.decoder = JointDecoder(encoder_width, decoder_width, decoder_depth, decoder_heads)
        answer_width = None if self.decoder is None else cast(int, self.decoder.width)
        given = dict(adapters or {})
        if set(given) - set(self.tokenizers):
            raise ValueError(
                f"MaskedModel: adapters {sorted(set(given) - set(self.tokenizers))} belong to no "
                f"modality; modalities are {sorted(self.tokenizers)}."
            )
        self.adapters = nn.ModuleDict(
            {
                name: given.get(name)
                or default_adapter(tokenizer, encoder_width, answer_width, target)
                for name, tokenizer in self.tokenizers.items()
            }
        )
        # what is saved: the parts as built, so that defaults may change without moving old models
        self.resolved = {
            "modalities": self.tokenizers,
            "target": target,
            "encoder": self.encoder,
            "decoder": False if self.decoder is None else self.decoder,
            "adapters": given,
            "max_tokens": dict(max_tokens or {}),
        }

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def adapter(self, name: str) -> Adapter:
        return cast(Adapter, self.adapters[name])

    # --- the walk -------------------------------------------------------------------------------

    def tokenize(self, batch: Batch) -> TokenBatch:
        """Cut every modality that is there. Raises ValueError for more tokens than slots."""
        found = {
            name: tokenizer(batch.parts[name])
            for name, tokenizer in self.tokenizers.items()
            if name in batch.parts
        }
        for name, tokens in found.items():
            if tokens.values.shape[1] > self.num_tokens[name]:
                raise ValueError(
                    f"modality {name!r}: {tokens.values.shape[1]} tokens, but the model was built "
                    f"with {self.num_tokens[name]}; use smaller samples, or build it with larger "
                    f"sizes (max_tokens={{{name!r}: ...}} where counts vary)."
                )
        return TokenBatch(batch.size, found, self.slots)

    def context(self, tokens: TokenBatch) -> Context:
        return Context(tokens.slots, self.grids(tokens), tokens.complete, tokens)

    def forward(self, batch: Batch) -> Latents:
        return self.encode(batch)

    def encode(
        self,
        batch: Batch,
        taps: tuple[int, ...] = (),
        modalities: Sequence[str] | None = None,
    ) -> Latents:
        """Latents of all that is present, nothing hidden; with `modalities` of these alone, as if
        the samples had no others. Lattice modalities may come in any size, also mixed within a
        batch: samples of equal sizes are encoded together."""
        if modalities is not None:
            batch = only(batch, modalities, list(self.slots))
            warn_unseen(self.seen, modalities)
        buckets = by_shape(batch)
        if len(buckets) > 1:
            return merged([(rows, self.encode(part, taps)) for rows, part in buckets], batch.size)
        tokens = self.tokenize_any_size(buckets[0][1])
        masking = everything(tokens.exists, tokens.complete)
        return self.encode_visible(tokens, masking, taps)

    def tokenize_any_size(self, batch: Batch) -> TokenBatch:
        """Like `tokenize`, with as many slots as these samples need: for encoding."""
        found = {
            name: tokenizer(batch.parts[name])
            for name, tokenizer in self.tokenizers.items()
            if name in batch.parts
        }
        num_tokens = {
            name: found[name].values.shape[1] if name in found else count
            for name, count in self.num_tokens.items()
        }
        return TokenBatch(batch.size, found, slots_of(num_tokens))

    def encode_visible(
        self, tokens: TokenBatch, masking: Masking, taps: tuple[int, ...] = ()
    ) -> Latents:
        """Latents of the visible tokens; only they are embedded."""
        masking = self.picked(tokens, masking)
        if getattr(self.encoder, "keeps_hidden", False):
            return self.encode_with_mask_tokens(tokens, masking, taps)
        picks = cast(Picks, masking.picks)
        content = self.embed(tokens, picks, masking.ids)
        places = self.places(tokens, picks, masking.ids, masking.valid, decoder=False)
        return self.encoder(content, places, taps)

    def encode_with_mask_tokens(
        self, tokens: TokenBatch, masking: Masking, taps: tuple[int, ...]
    ) -> Latents:
        """For encoders that keep hidden tokens in the sequence as a mask token."""
        whole = self.picked(tokens, everything(masking.exists, tokens.complete))
        picks = cast(Picks, whole.picks)
        content = self.embed(tokens, picks, whole.ids)
        shown = masking.visible.gather(1, whole.ids)
        content = torch.where(shown[..., None], content, cast(Tensor, self.encoder.mask_token))
        places = self.places(tokens, picks, whole.ids, whole.valid, decoder=False)
        return self.encoder(content, replace(places, shown=shown), taps)

    def decode(
        self,
        tokens: TokenBatch,
        latents: Latents,
        masking: Masking,
        decoder: nn.Module | None = None,
    ) -> Float[Tensor, "b d w"]:
        """Features at the decoded places. Without a decoder: the latents at these places. Another
        `decoder` than the model's may be given (an objective's own)."""
        masking = self.picked(tokens, masking)
        decoder = decoder or self.decoder
        if decoder is None:
            return latents.at(masking.decoded_ids)
        seen = everything(masking.exists, tokens.complete) if self.seen_is_all else masking
        seen = self.picked(tokens, seen)
        visible = self.places(
            tokens, cast(Picks, seen.picks), latents.ids, latents.valid, decoder=True
        )
        if self.seen_is_all:
            visible = replace(visible, shown=masking.visible.gather(1, latents.ids))
        decoded = self.places(
            tokens,
            cast(Picks, masking.decoded_picks),
            masking.decoded_ids,
            masking.decoded_valid,
            decoder=True,
        )
        return decoder(latents, visible, decoded)

    @property
    def seen_is_all(self) -> bool:
        return getattr(self.encoder, "keeps_hidden", False)

    def predict(
        self,
        tokens: TokenBatch,
        features: Float[Tensor, "b d w"],
        masking: Masking,
        adapters: Mapping[str, nn.Module] | None = None,
    ) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Per modality `(answers (m, o), true values (m, c), at (m,))`, flat over the decoded
        tokens that exist; `at` indexes the flattened `(b, d)`. Every head runs, on zero rows when
        its modality is absent; with `adapters` only theirs do."""
        picks = cast(Picks, self.picked(tokens, masking).decoded_picks)
        flat = features.flatten(0, 1)
        inverse = places_in_rows(picks, flat.device)
        answers, start = {}, 0
        for name in self.slots:
            source = picks.source.get(name)
            if adapters is not None and name not in adapters:
                start += 0 if source is None else len(source)
                continue
            adapter = cast(Adapter, (adapters or self.adapters)[name])
            by_place = getattr(adapter, "answers_by_place", False)
            if source is None:
                tokenizer = self.tokenizers[name]
                values = flat.new_zeros(0, tokenizer.token_dim)
                coords = (flat.new_zeros(0, tokenizer.coord_dim),) if by_place else ()
            else:
                part = tokens.modalities[name]
                values = part.values.flatten(0, 1).index_select(0, source)
                coords = (coords_at(part, source),) if by_place else ()
            stop = start + len(values)
            if inverse is None:
                at, chosen = torch.arange(start, stop, device=flat.device), flat
            else:
                at = inverse[start:stop]
                chosen = flat.index_select(0, at)
            answers[name] = (adapter.predict(chosen, *coords), values, at)
            start = stop
        return answers

    # --- flat lists in, (b, k, w) out -----------------------------------------------------------

    def picked(self, tokens: TokenBatch, masking: Masking) -> Masking:
        """The masking with its flat lists; those drawn in the loader have them already."""
        if masking.picks is not None and masking.decoded_picks is not None:
            return masking
        rows = {name: part.rows for name, part in tokens.modalities.items()}
        counts = {name: part.values.shape[1] for name, part in tokens.modalities.items()}
        return with_picks(masking, tokens.slots, rows, counts)

    def embed(
        self, tokens: TokenBatch, picks: Picks, ids: Int[Tensor, "b k"]
    ) -> Float[Tensor, "b k w"]:
        """Content at encoder width. Adapters of absent modalities run on zero rows, so that every
        weight takes part in every step."""
        lists = []
        for name in tokens.slots:
            adapter = self.adapter(name)
            source = picks.source.get(name)
            if source is None:
                tokenizer = self.tokenizers[name]
                values = torch.zeros(0, tokenizer.token_dim, device=self.device)
                coords = torch.zeros(0, tokenizer.coord_dim, device=self.device)
                lists.append(adapter.embed(values, coords))
                continue
            part = tokens.modalities[name]
            values = part.values.flatten(0, 1)
            if getattr(adapter, "embeds_all", False):
                every = torch.arange(len(values), device=values.device)
                lists.append(adapter.embed(values, coords_at(part, every)).index_select(0, source))
            else:
                lists.append(adapter.embed(values.index_select(0, source), coords_at(part, source)))
        return arranged(lists, picks, ids)

    def places(
        self,
        tokens: TokenBatch,
        picks: Picks,
        ids: Int[Tensor, "b k"],
        valid: Tensor | None,
        decoder: bool,
    ) -> Places:
        """Positions and coordinates of the picked tokens."""
        positions, coords = [], []
        widest = max(tokenizer.coord_dim for tokenizer in self.tokenizers.values())
        for name in tokens.slots:
            adapter, part = self.adapter(name), tokens.modalities.get(name)
            source = picks.source.get(name)
            if part is None or source is None:
                here = torch.zeros(0, self.tokenizers[name].coord_dim, device=ids.device)
                local = torch.zeros(0, dtype=torch.long, device=ids.device)
                grid = self.static_grid(name)
            else:
                here, local, grid = coords_at(part, source), picks.slots[name], part.grid
            place = adapter.decoder_place if decoder else adapter.place
            positions.append(place(here, local, grid))
            coords.append(nn.functional.pad(here.float(), (0, widest - here.shape[1])))
        return Places(
            arranged(positions, picks, ids),
            arranged(coords, picks, ids),
            ids,
            valid,
            tokens.slots,
            self.grids(tokens),
            {n: t.edges for n, t in tokens.modalities.items() if t.edges is not None},
            tokens.num_slots,
            rows={n: t.rows for n, t in tokens.modalities.items()},
        )

    def static_grid(self, name: str) -> tuple[int, ...] | None:
        tokenizer = self.tokenizers[name]
        return tokenizer.grid if isinstance(tokenizer, HasGrid) else None

    def grids(self, tokens: TokenBatch) -> dict[str, tuple[int, ...] | None]:
        return {
            name: tokens.modalities[name].grid
            if name in tokens.modalities
            else self.static_grid(name)
            for name in tokens.slots
        }

    # --- uses -----------------------------------------------------------------------------------

    def reconstruct(
        self,
        batch: Batch,
        masker: Masker = Masker(),  # noqa: B008 - frozen
        step: Step = Step(),  # noqa: B008 - frozen
        *,
        targets: Sequence[str] | None = None,
        share: float = 1.0,
    ) -> Reconstructed:
        """Hide what the batch's own masking, else `masker`, says and answer for it.

        With `targets` whole modalities are answered instead, for every sample, from a `share` of
        what else it has (see `multimask.filling`); samples may have the targets or lack them.
        """
        if targets is not None:
            return answered(self, batch, targets, share, step)
        return reconstruct(self, batch, masker, step)

    def untokenize(self, name: str, tokens: Tokens) -> object:
        """Raw data of one modality. Raises ValueError when its tokenizer has no way back."""
        tokenizer = self.tokenizers[name]
        if not isinstance(tokenizer, Untokenizes):
            raise ValueError(f"modality {name!r}: {type(tokenizer).__name__} has no untokenize.")
        return tokenizer.untokenize(tokens)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `config.json`; `multimask.load` reads them."""
        from multimask.checkpoints import save

        save(self, folder)

    def export(self, path: str | Path, layout: str, **facts: object) -> None:
        """Write the weights in another project's names; see `multimask.checkpoints.export`."""
        from multimask.checkpoints import export

        export(self, path, layout, **facts)

    def describe(self, masker: Masker | None = None) -> "Description":
        """Parameters, tokens, effective ratio, FLOPs per sample, encoder's and decoder's shares."""
        from multimask.describe import describe

        return describe(self, masker or Masker())


def check_name(name: str) -> None:
    if not name or name == "id" or "." in name or "/" in name:
        raise ValueError(
            f"MaskedModel: {name!r} cannot name a modality; use a plain word other than 'id'."
        )


def slot_count(name: str, tokenizer: Tokenizer, max_tokens: Mapping[str, int]) -> int:
    count = max_tokens.get(name, tokenizer.num_tokens)
    if count is None:
        raise ValueError(
            f"modality {name!r}: its number of tokens varies; say how many slots it gets at most, "
            f"max_tokens={{{name!r}: ...}}."
        )
    if count < 1:
        raise ValueError(f"modality {name!r}: {count} tokens; there must be at least one.")
    return count


def default_adapter(
    tokenizer: Tokenizer, width: int, decoder_width: int | None, target: Target
) -> nn.Module:
    if isinstance(tokenizer, BringsAdapterFor):
        return tokenizer.adapter_for(width, decoder_width, target)
    if isinstance(tokenizer, BringsAdapter):
        return tokenizer.adapter(width, decoder_width)
    return LinearAdapter(tokenizer, width, decoder_width, target)
