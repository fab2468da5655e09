"""The badge: a counter's value as a small SVG picture, for READMEs and pages."""

import unicodedata
from typing import Any

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
# Of what is not in it, as wide as such characters mostly are.
LETTER, FULL_WIDTH, SYMBOL = 72, 110, 140
# What takes no room of its own: accents, joiners, variation selectors.
WIDTHLESS = {"Mn", "Me", "Cf"}
# From here on a colour is so light that white letters could not be read on it.
LIGHT = 0.69

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
    """Return how wide a text is, in pixels."""
    return round(sum(map(_tenths, unicodedata.normalize("NFD", text))) / 10)


def _tenths(character: str) -> int:
    if character in _WIDTHS:
        return _WIDTHS[character]
    category = unicodedata.category(character)
    if category in WIDTHLESS:
        return 0
    if unicodedata.east_asian_width(character) in {"W", "F"}:
        return SYMBOL if category == "So" else FULL_WIDTH
    return LETTER


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


def is_light(color: str) -> bool:
    """Return whether a colour (#rgb or #rrggbb) wants dark letters."""
    digits = color.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    red, green, blue = bytes.fromhex(digits)
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255 > LIGHT


def layout(label: str, value: int, color: str) -> dict[str, Any]:
    """Return what badge.svg is drawn from; `color` is one of COLORS or hexadecimal digits."""
    message = short(value)
    painted = COLORS.get(color) or f"#{color.removeprefix('#')}"
    return {
        "label": label,
        "message": message,
        "color": painted,
        "ink": "#333" if is_light(painted) else "#fff",
        "shadow": "#ccc" if is_light(painted) else "#010101",
        "height": HEIGHT,
        "left": width(label) + 2 * PADDING,
        "right": width(message) + 2 * PADDING,
        "padding": PADDING,
    }
