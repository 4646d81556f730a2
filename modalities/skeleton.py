"""The skeleton kind: moving joints of one or more bodies, a token a joint and stretch of time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.modalities.skeleton_picture import Up, stick_figures
from multimask.modalities.skeleton_topologies import NTU25, Topology, as_topology
from multimask.modality import unless_all
from multimask.nn.adapters import LinearAdapter, Target
from multimask.nn.positions import Learned
from multimask.tokens import BadSample, Part, Tokens

Clips = Float[Tensor, "r m t v c"] | list[Tensor]


@dataclass(frozen=True)
class SkeletonJoints:
    """Cut motion into joints x stretches of time; with `segment=1` a token is a joint of a frame.

    Raw contract: `(bodies, frames, joints, dims)` float, NaN where a joint is not known (occluded,
    zero confidence, a body that is not there). Tokens stand (body, segment, joint); values are laid
    out (frame, dim), dims innermost, divided by `unit`. A token exists where all its numbers are
    known; fewer bodies or frames than the model is built for are tokens that do not exist.
    `untokenize` inverts this exactly up to float rounding, NaN where a token does not exist.
    `edges` are the bones of every body and segment, both ways.

    Args:
        topology: joints and bones; one of `skeleton_topologies`, or a `tree` from a BVH file.
        frames, bodies: the model is built for; `encode` takes longer clips as well.
        segment: frames per token.
        dims: 2 or 3 coordinates per joint.
        unit: how many raw units make 1 in a token: 1000 for files in millimetres and metres.
        up: the axis that points up in the picture; "-y" for image coordinates.
        time_edges: also connect a joint with itself in the segments before and after.
    Raises: ValueError for sizes that do not fit; BadSample for wrong joints, dims, bodies, infinite
    numbers, or a clip without a single known token.

    >>> from multimask.modalities.skeleton_topologies import COCO17
    >>> cut = SkeletonJoints(COCO17, frames=8, segment=4, dims=2)
    >>> tokens = cut(Part(torch.rand(3, 1, 8, 17, 2), torch.arange(3)))
    >>> tokens.values.shape, tokens.grid
    (torch.Size([3, 34, 8]), (1, 2, 17))
    """

    topology: Topology = NTU25
    frames: int = 64
    segment: int = 1
    dims: int = 3
    bodies: int = 1
    unit: float = 1.0
    up: Up = "y"
    time_edges: bool = False

    coord_dim = 3
    """Places are (body, middle frame, joint), as indices."""

    def __post_init__(self) -> None:
        if min(self.frames, self.segment, self.bodies) < 1 or self.unit <= 0:
            raise ValueError(
                f"SkeletonJoints: frames={self.frames}, segment={self.segment}, "
                f"bodies={self.bodies} and unit={self.unit} must be positive."
            )
        if self.frames % self.segment:
            raise ValueError(
                f"SkeletonJoints: {self.frames} frames are not divisible into segments of "
                f"{self.segment}; choose another frames or segment."
            )
        if self.dims not in (2, 3) or self.up not in ("y", "-y", "z"):
            raise ValueError(
                f"SkeletonJoints: dims={self.dims} must be 2 or 3 and up={self.up!r} 'y', '-y' or "
                "'z'."
            )

    @staticmethod
    def spelled(fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields as command lines and files have them, as fields of this class: a topology may be
        a name, or names of joints and their parents (`as_topology`)."""
        given = dict(fields)
        if "topology" in given:
            given["topology"] = as_topology(given["topology"])
        return given

    @property
    def channels(self) -> int:
        return self.dims

    @property
    def token_dim(self) -> int:
        return self.segment * self.dims

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.bodies, self.frames // self.segment, len(self.topology)

    @property
    def num_tokens(self) -> int:
        bodies, segments, joints = self.grid
        return bodies * segments * joints

    def adapter_for(self, width: int, decoder_width: int | None, target: Target) -> nn.Module:
        """A learned place per slot: joints stand in no order that a sin-cos table could follow."""
        return LinearAdapter(self, width, decoder_width, target, position=Learned)

    def __call__(self, part: Part) -> Tokens:
        clips = self.stacked(part.data)
        grid = (self.bodies, clips.shape[2] // self.segment, len(self.topology))
        values = rearrange(clips, "r m (t s) v c -> r (m t v) (s c)", s=self.segment) / self.unit
        valid = self.known(values)
        if valid is not None:
            values = torch.where(valid[..., None], values, 0.0)
        device = clips.device
        return Tokens(
            values,
            places(grid, self.segment, device),
            part.rows,
            valid,
            grid,
            self.edges(grid, device),
        )

    def valid(self, part: Part) -> Bool[Tensor, "r n"] | None:
        clips = self.stacked(part.data)
        return self.known(rearrange(clips, "r m (t s) v c -> r (m t v) (s c)", s=self.segment))

    def known(self, values: Float[Tensor, "r n e"]) -> Bool[Tensor, "r n"] | None:
        return unless_all(values.isfinite().all(dim=-1))

    def stacked(self, clips: Clips) -> Float[Tensor, "r m t v c"]:
        if not isinstance(clips, Tensor):
            lengths = sorted({clip.shape[1] for clip in clips})
            raise ValueError(
                f"SkeletonJoints: one batch holds clips of {lengths[:4]} frames; training wants at "
                f"most frames={self.frames} (crop or resample when reading), encode takes more."
            )
        if clips.ndim != 5 or clips.shape[-2:] != (len(self.topology), self.dims):
            raise BadSample(
                f"SkeletonJoints: expected clips (samples, bodies, frames, {len(self.topology)} "
                f"joints, {self.dims}), found {tuple(clips.shape)}."
            )
        if clips.shape[1] != self.bodies or clips.shape[2] % self.segment:
            raise ValueError(
                f"SkeletonJoints: expected {self.bodies} bodies and a multiple of {self.segment} "
                f"frames, found {clips.shape[1]} and {clips.shape[2]}; collate pads them."
            )
        return clips

    def edges(self, grid: tuple[int, int, int], device: torch.device) -> Int[Tensor, "2 e"]:
        """Bones of all bodies and segments as pairs of slots, both ways."""
        bodies, segments, joints = grid
        starts = torch.arange(bodies * segments)[:, None] * joints
        bones = self.topology.edges()
        pairs = [rearrange(bones[:, None] + starts[None], "two f e -> two (f e)")]
        if self.time_edges and segments > 1:
            slots = torch.arange(bodies * segments * joints).view(grid)
            before, after = slots[:, :-1].flatten(), slots[:, 1:].flatten()
            pairs += [torch.stack((before, after)), torch.stack((after, before))]
        return torch.cat(pairs, dim=1).to(device)

    def collate(self, items: Sequence[Any]) -> Clips:
        """Check each clip against the contract; pad bodies and frames with joints that are not
        known. One tensor unless some clips are longer than `frames`."""
        clips = [self.padded(self.checked(torch.as_tensor(item))) for item in items]
        return torch.stack(clips) if len({clip.shape for clip in clips}) == 1 else clips

    def blank(self, count: int) -> Float[Tensor, "r m t v c"]:
        """Motion of nothing, at the tokenizer's own length, every joint known."""
        return torch.zeros(count, self.bodies, self.frames, len(self.topology), self.dims)

    def checked(self, clip: Num[Tensor, "..."]) -> Float[Tensor, "m t v c"]:
        wanted = (len(self.topology), self.dims)
        if clip.ndim != 4 or tuple(clip.shape[2:]) != wanted or not clip.numel():
            raise BadSample(
                f"SkeletonJoints: expected (bodies, frames, {wanted[0]} joints, {wanted[1]}), "
                f"found {tuple(clip.shape)}; say which topology and dims the files have."
            )
        if clip.shape[0] > self.bodies:
            raise BadSample(
                f"SkeletonJoints: expected at most {self.bodies} bodies, found {clip.shape[0]}; "
                "build with more, or let the reader pick the most active."
            )
        clip = clip if clip.dtype == torch.float64 else clip.float()
        if count := int(clip.isinf().sum()):
            raise BadSample(f"SkeletonJoints: {count} coordinates are infinite.")
        whole = rearrange(self.padded(clip), "m (t s) v c -> m t v (s c)", s=self.segment)
        if not bool(whole.isfinite().all(dim=-1).any()):
            raise BadSample(
                "SkeletonJoints: no joint is known throughout a single segment of "
                f"{self.segment} frames, {int(clip.isnan().sum())} of {clip.numel()} numbers "
                "are NaN."
            )
        return clip

    def padded(self, clip: Float[Tensor, "m t v c"]) -> Float[Tensor, "m2 t2 v c"]:
        """Up to `bodies` and `frames`, longer clips up to whole segments."""
        frames = max(self.frames, -(-clip.shape[1] // self.segment) * self.segment)
        more = (0, 0, 0, 0, 0, frames - clip.shape[1], 0, self.bodies - clip.shape[0])
        return F.pad(clip, more, value=torch.nan)

    def untokenize(self, tokens: Tokens) -> Float[Tensor, "r m t v c"]:
        """Clips in raw units; NaN where a token does not exist."""
        values = tokens.values
        if tokens.valid is not None:
            values = torch.where(tokens.valid[..., None], values, torch.nan)
        return self.laid_out(values * self.unit, tokens.grid)

    def laid_out(
        self, values: Shaped[Tensor, "r n e"], grid: tuple[int, ...] | None
    ) -> Shaped[Tensor, "r m t v c"]:
        bodies, _, joints = grid or self.grid
        return rearrange(
            values, "r (m t v) (s c) -> r m (t s) v c", m=bodies, v=joints, s=self.segment
        )

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Stick figures of the first row at up to six instants, three a row, all at one scale.

        Joints that are not shown or not known are left out, bones need both ends. Left is blue,
        right red, the midline grey. The ruler is one `unit`.
        """
        clip = self.untokenize(tokens)[:1]
        open_joints = clip.isfinite().all(dim=-1)
        if shown is not None:
            numbers = repeat(shown.to(clip.device), "n -> 1 n c", c=self.token_dim)
            open_joints &= self.laid_out(numbers, tokens.grid)[..., 0]
        return stick_figures(
            clip[0].float().cpu().numpy() / self.unit,
            open_joints[0].cpu().numpy(),
            self.topology,
            self.up,
        )


def places(
    grid: tuple[int, int, int], segment: int, device: torch.device
) -> Float[Tensor, "1 n 3"]:
    axes = torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij")
    body, stretch, joint = (axis.flatten().float() for axis in axes)
    return torch.stack((body, stretch * segment + (segment - 1) / 2, joint), dim=-1)[None]
