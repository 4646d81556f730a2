"""Sizes that may be given as one side: 16 for a square, (height, width) for what is none."""


def pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a size that may be one side of a square.

    >>> pair(16), pair((8, 12))
    ((16, 16), (8, 12))
    """
    return (size, size) if isinstance(size, int) else (size[0], size[1])
