"""The weights at both ends of point groups: a mini-PointNet in, chamfer distance out."""

from einops import rearrange
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.modalities.point_operators import Norm, chamfer_of, nearest_pairs, squared, take
from multimask.modality import Tokenizer
from multimask.nn.positions import CoordMLP
from multimask.plugins import remembers_arguments
from multimask.tokens import Grid


class MiniPointNet(nn.Module):
    """A group of points to one vector, whatever their order (Point-MAE's group encoder, after
    PointNet, Qi et al. 2017).

    Two layers a point, the group's maximum laid beside each point, two layers, the maximum again.
    The maximum's share of the third layer is computed once a group instead of once a point.

    Args: channels, numbers a point; width, of the vector; first, width of the first layer, which
        is doubled and doubled again behind it (128 as published).
    """

    def __init__(self, channels: int, width: int, first: int = 128) -> None:
        super().__init__()
        self.fc1, self.norm1 = nn.Linear(channels, first), nn.BatchNorm1d(first)
        self.fc2 = nn.Linear(first, 2 * first)
        self.fc3, self.norm2 = nn.Linear(4 * first, 4 * first), nn.BatchNorm1d(4 * first)
        self.fc4 = nn.Linear(4 * first, width)
        for layer in (self.fc1, self.fc2, self.fc3, self.fc4):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, groups: Float[Tensor, "m s c"]) -> Float[Tensor, "m w"]:
        size = groups.shape[1]
        each = self.fc2(F.relu(normalised(self.norm1, self.fc1(groups.flatten(0, 1)))))
        whole = each.unflatten(0, (-1, size)).amax(dim=1)
        of_whole, of_each = self.fc3.weight.chunk(2, dim=1)
        shared = F.linear(whole, of_whole, self.fc3.bias)
        both = F.linear(each, of_each).unflatten(0, (-1, size)) + shared[:, None]
        each = self.fc4(F.relu(normalised(self.norm2, both.flatten(0, 1))))
        return each.unflatten(0, (-1, size)).amax(dim=1)


def normalised(norm: nn.BatchNorm1d, x: Float[Tensor, "m w"]) -> Float[Tensor, "m w"]:
    """Batch normalisation that leaves its statistics alone when there is nothing to count."""
    if len(x):
        return norm(x)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


@remembers_arguments
class GroupAdapter(nn.Module):
    """Mini-PointNet in, offsets of `group_size` points out, chamfer distance between the two.

    Positions are MLPs of the centres, one for the encoder, one for the decoder.

    Args:
        tokenizer: `PointGroups`. width, decoder_width: of encoder and decoder.
        norm: "l2" squared distances (Point-MAE's default), "l1" distances.
        embed_visible_only: hidden groups skip the mini-PointNet, which saves a quarter of a step;
            its batch statistics are then those of visible groups. By default, as published, all
            groups pass it while training (in eval mode, where the result is the same, only the
            visible ones).
        feature_weight: how much squared errors of features count beside the chamfer distance;
            features are compared between the points that the distance pairs.
        net_width: of the mini-PointNet's first layer; its cost goes with the square.
    """

    restoring_leaks = False
    unordered = True
    """A token is a set: which answer stands for which point is not said."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        width: int,
        decoder_width: int | None,
        norm: Norm = "l2",
        embed_visible_only: bool = False,
        feature_weight: float = 1.0,
        net_width: int = 128,
    ) -> None:
        super().__init__()
        if norm not in ("l1", "l2"):
            raise ValueError(f"GroupAdapter: norm={norm!r} must be 'l1' or 'l2'.")
        self.norm: Norm = norm
        self.backend = getattr(tokenizer, "backend", None)
        self.channels = int(getattr(tokenizer, "channels", 3))
        self.embed_visible_only, self.feature_weight = embed_visible_only, feature_weight
        answer_width = width if decoder_width is None else decoder_width
        self.net = MiniPointNet(self.channels, width, net_width)
        self.position = CoordMLP(tokenizer, width)
        self.decoder_position = CoordMLP(tokenizer, answer_width)
        self.pred = nn.Linear(answer_width, tokenizer.token_dim)
        for layer in (self.position.fc1, self.position.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    @property
    def embeds_all(self) -> bool:
        return self.training and not self.embed_visible_only

    def points(self, values: Num[Tensor, "m v"]) -> Tensor:
        return rearrange(values, "m (s c) -> m s c", c=self.channels)

    def embed(self, values: Num[Tensor, "m v"], coords: Num[Tensor, "m p"]) -> Float[Tensor, "m w"]:
        return self.net(self.points(values.to(self.pred.weight.dtype)))

    def place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.position(coords, slots, grid)

    def decoder_place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.decoder_position(coords, slots, grid)

    def predict(self, features: Float[Tensor, "m w"]) -> Float[Tensor, "m v"]:
        return self.pred(features)

    def error(
        self, prediction: Float[Tensor, "m v"], values: Num[Tensor, "m v"]
    ) -> Float[Tensor, " m"]:
        # rounding in half precision would drown the distances
        made, true = self.points(prediction.float()), self.points(values.float())
        x, y = made[..., :3].contiguous(), true[..., :3].contiguous()
        forth, back = nearest_pairs(x, y, backend=self.backend)
        sides = squared(x, y, forth[..., None])[..., 0], squared(y, x, back[..., None])[..., 0]
        error = chamfer_of(*sides, norm=self.norm)
        if self.channels > 3 and self.feature_weight:
            f, g = made[..., 3:], true[..., 3:]
            apart = (f - take(g, forth)).square().mean((1, 2))
            apart = apart + (g - take(f, back)).square().mean((1, 2))
            error = error + self.feature_weight * apart
        return error

    def restore(
        self, prediction: Float[Tensor, "m v"], values: Num[Tensor, "m v"]
    ) -> Float[Tensor, "m v"]:
        return prediction
