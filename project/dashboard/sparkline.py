"""A series of numbers as a line that needs no more room than a word."""

from collections.abc import Sequence

WIDTH, HEIGHT = 100, 40


def line(values: Sequence[int]) -> str:
    """Return the points of an SVG polyline from edge to edge; zero is always within it."""
    lowest, highest = min(0, *values), max(0, *values)
    extent = highest - lowest or 1
    step = WIDTH / (len(values) - 1)
    return " ".join(
        f"{place * step:.4g},{HEIGHT - HEIGHT * (value - lowest) / extent:.4g}"
        for place, value in enumerate(values)
    )
