"""Charts as SVG, readable on a light page and on a dark one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 460
LEFT, RIGHT, TOP, BOTTOM = 76, 275, 56, 58
STEPS = 6
LABEL_HEIGHT = 17
BAR_HEIGHT = 24
BARS_TOP, BARS_LEFT, BARS_RIGHT = 44, 330, 60

# The service in colours, what it is measured against in greys and earth; each for both pages.
COLOURS = {
    "empty": ("#6b6a66", "#a3a19b"),
    "hot": ("#2a78d6", "#4a94ec"),
    "spread": ("#0f8a68", "#25b48b"),
    "scores": ("#6a4fc9", "#9a86ee"),
    "uncombined": ("#c2410c", "#f08550"),
    "pgbench": ("#9a6a00", "#d9a62e"),
    "tutorial": ("#b0264f", "#ee6a8f"),
    "redis": ("#4b5563", "#b7bfca"),
}
DASHED = {"empty", "pgbench", "tutorial", "redis", "uncombined"}

PAGE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
     font-family="system-ui, sans-serif" font-size="13">
<title>{title}</title>
<style>
  .page {{ fill: #fcfcfb }} .text {{ fill: #1f1f1d }} .faint {{ fill: #5c5b57 }}
  .rule {{ stroke: #e2e1dc }} .line {{ fill: none; stroke-width: 2 }}
  .dashed {{ stroke-dasharray: 5 4 }}
{light}
  @media (prefers-color-scheme: dark) {{
    .page {{ fill: #1a1a19 }} .text {{ fill: #f4f3ef }} .faint {{ fill: #b5b3ac }}
    .rule {{ stroke: #3a3936 }}
{dark}
  }}
</style>
<rect class="page" width="100%" height="100%" rx="6"/>
<text class="text" x="{left}" y="28" font-size="16" font-weight="600">{title}</text>
{drawing}
</svg>
"""


def draw(
    title: str,
    connections: Sequence[int],
    lines: Mapping[str, Sequence[float]],
    names: Mapping[str, str],
) -> str:
    """Return a chart with a line for each candidate over the numbers of connections."""
    chart = _Chart(connections, max(max(values) for values in lines.values()))
    drawing = [*chart.axes(), *chart.lines(lines), *chart.labels(lines, names)]
    return PAGE.format(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        title=escape(title),
        light="\n".join(_colours(lines, 0)),
        dark="\n".join(_colours(lines, 1)),
        drawing="\n".join(drawing),
    )


def _colours(keys: Mapping[str, object], page: int) -> Iterator[str]:
    for key in keys:
        colour = COLOURS[key][page]
        yield f"  .{key} {{ stroke: {colour} }} .{key}-dot {{ fill: {colour} }}"


def draw_bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """Return a chart with a bar for each value, by a logarithmic scale: they differ that much."""
    least = 10 ** math.floor(math.log10(min(values.values())))
    marks = _marks(least, max(values.values()))
    height = BARS_TOP + len(values) * BAR_HEIGHT + BOTTOM
    drawing = [*_rules(marks, height, unit), *_bars(values, marks)]
    return PAGE.format(
        width=WIDTH,
        height=height,
        left=20,
        title=escape(title),
        light=f"  .bar {{ fill: {COLOURS['hot'][0]} }}",
        dark=f"  .bar {{ fill: {COLOURS['hot'][1]} }}",
        drawing="\n".join(drawing),
    )


def _marks(least: float, most: float) -> list[float]:
    """Return 1, 2, 5, 10, 20, … from `least` up to the first that is not below `most`."""
    marks = [least]
    while marks[-1] < most or len(marks) < 2:
        marks.append(_round_step(marks[-1] * 1.5) if marks[-1] >= 1 else marks[-1] * 10)
    return marks


def _bar_x(value: float, marks: Sequence[float]) -> float:
    part = math.log(value / marks[0]) / math.log(marks[-1] / marks[0])
    return BARS_LEFT + part * (WIDTH - BARS_LEFT - BARS_RIGHT)


def _rules(marks: Sequence[float], height: int, unit: str) -> Iterator[str]:
    """Draw the scale, and say what it means."""
    for mark in marks:
        x = _bar_x(mark, marks)
        yield f'<path class="rule" d="M{x:.1f} {BARS_TOP}V{height - BOTTOM}"/>'
        yield _text("faint", x, height - BOTTOM + 22, f"{mark:g}", anchor="middle")
    middle = (BARS_LEFT + WIDTH - BARS_RIGHT) / 2
    yield _text("faint", middle, height - 14, unit, anchor="middle")


def _bars(values: Mapping[str, float], marks: Sequence[float]) -> Iterator[str]:
    for place, (name, value) in enumerate(values.items()):
        y, end = BARS_TOP + place * BAR_HEIGHT, _bar_x(value, marks)
        width, thickness = end - BARS_LEFT, BAR_HEIGHT - 7
        yield _text("text", BARS_LEFT - 10, y + 16, name, anchor="end")
        yield (
            f'<rect class="bar" x="{BARS_LEFT}" y="{y + 4}" width="{width:.1f}" '
            f'height="{thickness}" rx="2"/>'
        )
        yield _text("faint", end + 6, y + 16, f"{value:.2f}" if value < 10 else f"{value:.0f}")


class _Chart:
    """Where things are: connections side by side, requests upwards from 0."""

    def __init__(self, connections: Sequence[int], largest: float) -> None:
        self._connections = connections
        self._step = _round_step(largest / STEPS)
        self._top = math.ceil(largest / self._step) * self._step

    def _x(self, place: int) -> float:
        between = (WIDTH - LEFT - RIGHT) / max(1, len(self._connections) - 1)
        return LEFT + place * between

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self._top * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> Iterator[str]:
        """Draw the rules, and say what they mean."""
        for number in range(round(self._top / self._step) + 1):
            y = self._y(number * self._step)
            value = f"{number * self._step:,.0f}".replace(",", " ")
            yield f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            yield _text("faint", LEFT - 10, y + 4, value, anchor="end")
        for place, count in enumerate(self._connections):
            yield _text("faint", self._x(place), HEIGHT - BOTTOM + 22, str(count), anchor="middle")
        middle = (LEFT + WIDTH - RIGHT) / 2
        yield _text("faint", middle, HEIGHT - 14, "keep-alive connections", anchor="middle")
        yield (
            f'<text class="faint" text-anchor="middle" '
            f'transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)">'
            "requests a second</text>"
        )

    def lines(self, lines: Mapping[str, Sequence[float]]) -> Iterator[str]:
        """Draw each line, with a dot where something was measured."""
        for key, values in lines.items():
            points = [(self._x(place), self._y(value)) for place, value in enumerate(values)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            dashed = " dashed" if key in DASHED else ""
            yield f'<polyline class="line {key}{dashed}" points="{path}"/>'
            for x, y in points:
                yield f'<circle class="{key}-dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'

    def labels(
        self, lines: Mapping[str, Sequence[float]], names: Mapping[str, str]
    ) -> Iterator[str]:
        """Name each line at its end, moved up where the name below needs the room."""
        room: float = HEIGHT - BOTTOM + LABEL_HEIGHT
        x = WIDTH - RIGHT
        for key in sorted(lines, key=lambda key: lines[key][-1]):
            end = self._y(lines[key][-1])
            room = min(end, room - LABEL_HEIGHT)
            yield f'<path class="line {key}" d="M{x + 7} {end:.1f}L{x + 20} {room:.1f}H{x + 26}"/>'
            yield _text("text", x + 31, room + 4, names[key])


def _text(kind: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, … that is not below `least`."""
    power: float = 10 ** math.floor(math.log10(max(least, 1)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
