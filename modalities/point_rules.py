"""Masking rules for sets: by where tokens are, since there is no lattice to go by."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from multimask.masking.context import Context


@dataclass(frozen=True)
class NearestBlock:
    """Hide what lies nearest to one token, drawn at random: a hole in one piece.

    Point-MAE's block masking (Pang et al., ECCV 2022). Distances are those of the tokens' places;
    each modality has a hole of its own, with the same share hidden. Works on lattices as well.
    """

    needs_content = True

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        if context.tokens is None:
            raise ValueError(
                "NearestBlock: needs the tokens' places; draw it in the step, with model.context()."
            )
        noise = torch.stack([torch.rand(exists.shape[1], generator=g) for g in generators])
        noise = noise.to(exists.device)
        scores = torch.zeros_like(noise)
        for name, tokens in context.tokens.modalities.items():
            where = context.slots[name]
            here = slice(where.start, where.start + tokens.values.shape[1])
            there = exists[tokens.rows, here]
            draws = noise[tokens.rows, here].masked_fill(~there, 2.0)
            seed = draws.argmin(dim=1)
            places = tokens.coords.expand(len(tokens.rows), -1, -1).to(noise.dtype)
            middle = places[torch.arange(len(seed), device=seed.device), seed]
            apart = (places - middle[:, None]).square().sum(dim=-1).masked_fill(~there, torch.inf)
            rank = apart.argsort(dim=1, stable=True).argsort(dim=1)  # 0 is the seed
            share = rank / there.sum(dim=1, keepdim=True).clamp(min=1)
            scores[tokens.rows, here] = -share.to(scores.dtype)
        return scores
