"""What a sample says about its bands, held against what the tokenizer knows of them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multimask.tokens import BadSample

SAME = 1.0  # nm; bands closer than this are the same band


@runtime_checkable
class KnowsBands(Protocol):
    """Wavelengths (nm) and channel names that a tokenizer lists, and the bands a token holds."""

    @property
    def wavelengths(self) -> tuple[float, ...]: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def group(self) -> int: ...


def checked(
    item: Any, known: KnowsBands
) -> tuple[Float[Tensor, "c h w"], Float[Tensor, " c"], Int[Tensor, " c"]]:
    """One sample as pixels, wavelengths (NaN for none) and channel numbers (-1 for none)."""
    stated = item if isinstance(item, Mapping) else {"pixels": item}
    if "pixels" not in stated:
        raise BadSample(f"spectral sample: expected 'pixels', found only {sorted(stated)}.")
    pixels = torch.as_tensor(stated["pixels"])
    if pixels.ndim != 3 or pixels.numel() == 0 or pixels.is_complex():
        raise BadSample(
            "spectral sample: expected real pixels of shape (bands, height, width), found "
            f"{pixels.dtype} of {tuple(pixels.shape)}."
        )
    pixels = pixels.to(torch.float32)
    if pixels.isinf().any():
        raise BadSample(
            f"spectral sample: {int(pixels.isinf().sum())} pixels are infinite or too large for "
            "32-bit floats; missing ones are to be NaN."
        )
    return pixels, *identified(stated, len(pixels), known)


def identified(
    stated: Mapping[str, Any], count: int, known: KnowsBands
) -> tuple[Float[Tensor, " c"], Int[Tensor, " c"]]:
    """Wavelength and channel number of every band; each must have one of the two."""
    nm, names = stated.get("wavelengths"), stated.get("names")
    if nm is None and names is None:
        listed = len(known.wavelengths) + len(known.names)
        if listed != count:
            raise BadSample(
                f"spectral sample: nothing says what its {count} bands are: it brings neither "
                f"wavelengths nor names, and the tokenizer lists {listed} bands; state them when "
                "reading, or list them in the tokenizer's wavelengths or names."
            )
        nm = [*known.wavelengths, *[torch.nan] * len(known.names)]
        names = [*[""] * len(known.wavelengths), *known.names]
    nm = torch.as_tensor([torch.nan] * count if nm is None else nm, dtype=torch.float32)
    names = [""] * count if names is None else list(names)
    if nm.shape != (count,) or len(names) != count:
        raise BadSample(
            f"spectral sample: expected one wavelength and name for each of {count} bands, "
            f"found {nm.numel()} wavelengths and {len(names)} names."
        )
    if (nm <= 0).any() or nm.isinf().any():
        raise BadSample(
            f"spectral sample: expected wavelengths in nm above 0, found {nm.tolist()}."
        )
    ids = [
        known.names.index(name) if unseen and name in known.names else -1
        for name, unseen in zip(names, nm.isnan().tolist(), strict=True)
    ]
    channels = torch.tensor(ids)
    unknown = (nm.isnan() & (channels < 0)).nonzero().flatten().tolist()
    if unknown:
        raise BadSample(
            f"spectral sample: band {unknown[0]} ({names[unknown[0]]!r}) has no wavelength and "
            f"is none of the named channels {list(known.names)}; say its wavelength when reading, "
            "or list it in the tokenizer's names."
        )
    if known.group > 1:
        check_order(nm, channels, known)
    return nm, channels


def check_order(nm: Float[Tensor, " c"], channels: Int[Tensor, " c"], known: KnowsBands) -> None:
    """Bands that share a token stand in a fixed order, else a weight would mean another band."""
    if known.wavelengths:
        listed = torch.tensor([*known.wavelengths, *[torch.nan] * len(known.names)])
        agrees = len(nm) == len(listed) and bool(
            ((nm - listed).abs() < SAME).logical_or(nm.isnan() & listed.isnan()).all()
        )
    elif known.names and bool(nm.isnan().all()):
        agrees = channels.tolist() == list(range(len(known.names)))
    else:
        agrees = bool((nm.diff() >= 0).all())
    if not agrees:
        raise BadSample(
            f"spectral sample: tokens of {known.group} bands want them "
            f"{'as listed in wavelengths' if known.wavelengths else 'in ascending order'}, "
            f"found {nm.tolist()[:8]}; choose and order bands when reading, or use group=1."
        )


def between(
    x: Float[Tensor, "*s"], known: Sequence[float], values: Float[Tensor, " k"]
) -> Float[Tensor, "*s"]:
    """Piecewise linear through (known, values), constant beyond the first and last.

    >>> between(torch.tensor([450.0, 525.0]), (500.0, 550.0), torch.tensor([1.0, 3.0]))
    tensor([1., 2.])
    """
    order = sorted(range(len(known)), key=lambda place: known[place])
    xs = torch.tensor([known[place] for place in order], dtype=x.dtype, device=x.device)
    ys = values[torch.tensor(order, device=x.device)]
    if len(xs) == 1:
        return ys.expand(x.shape).clone()
    right = torch.searchsorted(xs, x.contiguous()).clamp(1, len(xs) - 1)
    span = (xs[right] - xs[right - 1]).clamp(min=1e-6)
    return torch.lerp(ys[right - 1], ys[right], ((x - xs[right - 1]) / span).clamp(0, 1))
