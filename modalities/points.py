"""The points kind: clouds of any size, cut into overlapping groups of neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Num, UInt8
from torch import Tensor, nn

from multimask.modalities.point_adapter import GroupAdapter
from multimask.modalities.point_operators import ball_query, farthest_points, knn, take
from multimask.modalities.point_pictures import Axis, draw
from multimask.tokens import BadSample, Part, Tokens

SAME = 1e-6  # of the largest coordinate: points of two groups that are nearer are one


@dataclass(frozen=True)
class PointGroups:
    """Cut a cloud into groups: farthest-point centres, each with its nearest neighbours.

    Raw contract: `(num_points, 3 + features)` float, x, y, z first, then features (normals, colour,
    intensity) if any; the number of points may differ from cloud to cloud, and is at least
    `num_groups` and `group_size`. Values are, point by point, the offset from the group's centre,
    then the features as they are; coords are the centres. Both keep the input's unit. Groups
    overlap, so a point may occur in several or none; `untokenize` gives those that occur, once.
    Points within a group stand nearest first, the centre itself foremost.
    Source: Point-MAE (Pang et al., ECCV 2022).

    Args:
        num_groups: tokens per cloud. group_size: points per token, the centre among them.
        features: numbers per point behind the three coordinates.
        up: which axis points up in pictures.
        backend: who computes neighbours (see `point_operators`); None chooses.
    Raises: ValueError for sizes below 1; BadSample for wrong shapes, too few points, NaN.

    >>> tokens = PointGroups(8, group_size=4)(Part(torch.rand(2, 128, 3), torch.arange(2)))
    >>> tokens.values.shape, tokens.coords.shape, tokens.grid
    (torch.Size([2, 8, 12]), torch.Size([2, 8, 3]), None)
    """

    num_groups: int = 64
    group_size: int = 32
    features: int = 0
    up: Axis = "y"
    backend: Literal["pytorch3d", "tree", "torch"] | None = None

    coord_dim = 3
    """Places are the groups' centres, in the unit of the input."""

    def __post_init__(self) -> None:
        if self.num_groups < 1 or self.group_size < 1 or self.features < 0:
            raise ValueError(
                f"PointGroups: num_groups={self.num_groups} and group_size={self.group_size} must "
                f"be at least 1, features={self.features} at least 0."
            )
        if self.up not in ("x", "y", "z"):
            raise ValueError(f"PointGroups: up={self.up!r} must be 'x', 'y' or 'z'.")

    @property
    def num_tokens(self) -> int:
        return self.num_groups

    @property
    def channels(self) -> int:
        """Numbers per point, which stand innermost in a token's values."""
        return 3 + self.features

    @property
    def token_dim(self) -> int:
        return self.group_size * self.channels

    @property
    def fewest(self) -> int:
        """Points that a cloud must have."""
        return max(self.num_groups, self.group_size)

    def __call__(self, part: Part) -> Tokens:
        clouds, lengths = padded(part.data)
        if clouds.ndim != 3 or clouds.shape[2] != self.channels:
            raise BadSample(
                f"PointGroups: expected clouds of {self.channels} numbers a point (x, y, z and "
                f"{self.features} features), found shape {tuple(clouds.shape)}."
            )
        smallest = clouds.shape[1] if lengths is None else int(lengths.min())
        if smallest < self.fewest:
            raise BadSample(self.too_small(smallest))
        xyz = clouds[..., :3].contiguous()
        centres = take(xyz, farthest_points(xyz, self.num_groups, lengths, self.backend))
        _, nearest = knn(centres, xyz, self.group_size, lengths=lengths, backend=self.backend)
        groups = take(clouds, nearest)
        groups[..., :3] -= centres[:, :, None]
        return Tokens(rearrange(groups, "r g s c -> r g (s c)"), centres, part.rows)

    def collate(self, items: Sequence[Any]) -> Tensor | list[Tensor]:
        """Check each cloud against the contract; stack them when sizes agree."""
        clouds = [self.checked(torch.as_tensor(item)) for item in items]
        if len({(cloud.shape, cloud.dtype) for cloud in clouds}) == 1:
            return torch.stack(clouds)
        return clouds

    def checked(self, cloud: Num[Tensor, "..."]) -> Float[Tensor, "n c"]:
        if cloud.ndim != 2 or cloud.shape[1] != self.channels:
            raise BadSample(
                f"PointGroups: expected a cloud of shape (points, {self.channels}): x, y, z "
                f"and {self.features} features; found {tuple(cloud.shape)}. Say features=..., or "
                "choose features when reading."
            )
        if not cloud.is_floating_point():
            raise BadSample(f"PointGroups: expected float coordinates, found {cloud.dtype}.")
        if len(cloud) < self.fewest:
            raise BadSample(self.too_small(len(cloud)))
        if not cloud.isfinite().all():
            count = int((~cloud.isfinite()).any(dim=1).sum())
            raise BadSample(f"PointGroups: {count} of {len(cloud)} points are NaN or infinite.")
        return cloud

    def too_small(self, count: int) -> str:
        return (
            f"PointGroups: a cloud has {count} points, but num_groups={self.num_groups} and "
            f"group_size={self.group_size} need at least {self.fewest}; sample more points or ask "
            "for fewer and smaller groups."
        )

    def grouped(self, tokens: Tokens) -> Float[Tensor, "r g s c"]:
        """The points of each group, offsets added to centres."""
        groups = rearrange(tokens.values, "r g (s c) -> r g s c", s=self.group_size).clone()
        groups[..., :3] += tokens.coords[:, :, None]
        return groups

    def untokenize(self, tokens: Tokens) -> list[Float[Tensor, "n c"]]:
        """The points that the groups hold, each once, group after group: input points, up to the
        rounding of the offsets. Cut again they give the same groups."""
        points = self.grouped(tokens).flatten(1, 2)
        xyz = points[..., :3].contiguous()
        near = SAME * max(float(xyz.abs().max()), 1e-30) if xyz.numel() else 1.0
        _, first = ball_query(xyz, xyz, 1, near, backend=self.backend)
        once = first[..., 0] == torch.arange(xyz.shape[1], device=xyz.device)
        return [cloud[kept] for cloud, kept in zip(points, once, strict=True)]

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """One cloud from two views, 90 degrees apart; groups not shown are left out.

        What is drawn where depends on the centres alone, so that original, visible and
        reconstructed clouds can be laid side by side. Near points are warm, far ones cool.
        """
        points = self.grouped(tokens)[0, ..., :3].float().cpu()
        if shown is not None:
            points = points[shown.cpu()]
        frame = tokens.coords[0].float().cpu().numpy()
        return draw(points.flatten(0, 1).numpy(), frame, self.up)

    def adapter(self, width: int, decoder_width: int | None) -> nn.Module:
        return GroupAdapter(self, width, decoder_width)


def padded(data: Tensor | list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Clouds as one tensor, and how many points of each are real; None when all are."""
    if isinstance(data, Tensor):
        return data, None
    lengths = torch.tensor([len(cloud) for cloud in data], device=data[0].device)
    return nn.utils.rnn.pad_sequence(data, batch_first=True), lengths
