"""The badge: a counter's value as a small SVG picture, for READMEs and pages."""

from flask import render_template

HEIGHT = 20
PADDING = 5
UNITS = "kMGTPE"

# Widths of DejaVu Sans, which has Verdana's, at 11 pixels, in tenths of a pixel.
_WIDTHS = {
    character: width
    for width, characters in {
        30: "'", 31: "ijl", 32: "IJ", 35: " ,.", 37: "/:;\\|", 39: "f", 40: "-", 43: "()[]t",
        44: "!", 45: "r", 51: '"', 55: "*_`", 57: "s", 58: "?z", 60: "c", 61: "L", 63: "F",
        64: "k", 65: "vxy", 66: "P", 67: "TYao", 68: "e", 70: "$0123456789ESbdghnpqu{}", 72: "K",
        75: "ABVXZ", 76: "R", 77: "C", 81: "U", 82: "N", 83: "H", 85: "DG", 86: "&", 87: "OQ",
        90: "w", 92: "#+<=>^~", 95: "M", 105: "%", 107: "m", 109: "W", 110: "@",
    }.items()
    for character in characters
}  # fmt: skip
WIDEST = 110

COLORS = {
    "brightgreen": "#4c1",
    "green": "#97ca00",
    "yellowgreen": "#a4a61d",
    "yellow": "#dfb317",
    "orange": "#fe7d37",
    "red": "#e05d44",
    "blue": "#007ec6",
    "lightgrey": "#9f9f9f",
    "lightgray": "#9f9f9f",
    "grey": "#555",
    "gray": "#555",
    "success": "#4c1",
    "important": "#fe7d37",
    "critical": "#e05d44",
    "informational": "#007ec6",
    "inactive": "#9f9f9f",
}


def width(text: str) -> int:
    """Return how wide a text is, in pixels; characters that we do not know count as wide."""
    return round(sum(_WIDTHS.get(character, WIDEST) for character in text) / 10)


def short(value: int) -> str:
    """Return a number as people write it: 950, 1.2k, 34k, 5.6M."""
    size = abs(value)
    if size < 1000:
        return str(value)
    unit = (len(str(size)) - 1) // 3
    # Cut, not rounded: a counter should not say 1M before it is there.
    whole, tenths = divmod(size * 10 // 1000**unit, 10)
    fraction = f".{tenths}" if whole < 10 and tenths else ""
    return f"{'-' * (value < 0)}{whole}{fraction}{UNITS[unit - 1]}"


def draw(label: str, value: int, color: str) -> str:
    """Return the badge as SVG; `color` is one of COLORS or hexadecimal digits."""
    message = short(value)
    return render_template(
        "badge.svg",
        label=label,
        message=message,
        color=COLORS.get(color) or f"#{color.removeprefix('#')}",
        height=HEIGHT,
        left=width(label) + 2 * PADDING,
        right=width(message) + 2 * PADDING,
        padding=PADDING,
    )
