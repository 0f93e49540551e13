"""A dashboard's data as one picture: small plots beside each other. Rules of this file: it draws what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Line = tuple[str, Sequence[tuple[float, float]]]
"""Legend, and points of time and value."""

WIDE, HIGH, ACROSS = 300, 130, 4
LEGENDS = 5
COLOURS = ("#3274d9", "#e0752d", "#37872d", "#c4162a", "#8f3bb8", "#b877d9", "#007c6e", "#8a6d00")


def _figure(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in ("bytes", "Bps"):
        for word in ("B", "KiB", "MiB", "GiB", "TiB"):
            if abs(value) < 1024 or word == "TiB":
                return f"{value:.3g} {word}" + ("/s" if unit == "Bps" else "")
            value /= 1024
    if unit == "s" and abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.4g}" + {"s": " s", "ops": "/s"}.get(unit, "")


def picture(plots: Sequence[tuple[str, str, Sequence[Line]]]) -> str:
    """``plots``: title, unit and lines of each."""
    rows = -(-len(plots) // ACROSS)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE * ACROSS} {HIGH * rows}"'
        ' font-family="sans-serif" font-size="9">',
        f'<rect width="{WIDE * ACROSS}" height="{HIGH * rows}" fill="#fff"/>',
    ]
    for n, (title, unit, lines) in enumerate(plots):
        x, y = n % ACROSS * WIDE, n // ACROSS * HIGH
        out.append(f'<g transform="translate({x} {y})">')
        out.append(f'<rect x="3" y="3" width="{WIDE - 6}" height="{HIGH - 6}" fill="none" stroke="#ccc"/>')
        out.append(f'<text x="8" y="15" font-weight="bold">{escape(title)}</text>')
        out += _plot(unit, [line for line in lines if line[1]])
        out.append("</g>")
    return "\n".join([*out, "</svg>", ""])


def _plot(unit: str, lines: Sequence[Line]) -> list[str]:
    if not lines:
        return [f'<text x="{WIDE / 2}" y="{HIGH / 2}" text-anchor="middle" fill="#888">no data</text>']
    times = [t for _, points in lines for t, _ in points]
    values = [v for _, points in lines for _, v in points]
    first, last = min(times), max(times)
    low, high = min(0.0, *values) if len(values) > 1 else min(0.0, values[0]), max(values)
    left, right, top, bottom = 50, WIDE - 10, 22, HIGH - 12 - 11 * (1 + (min(len(lines), LEGENDS) - 1) // 3)

    def at(t: float, v: float) -> str:
        along = (t - first) / ((last - first) or 1)
        up = (v - low) / ((high - low) or 1)
        return f"{left + along * (right - left):.1f},{bottom - up * (bottom - top):.1f}"

    out = [
        f'<text x="{left - 4}" y="{top + 6}" text-anchor="end" fill="#666">{escape(_figure(high, unit))}</text>',
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end" fill="#666">{escape(_figure(low, unit))}</text>',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#ddd"/>',
    ]
    for n, (legend, points) in enumerate(lines):
        colour = COLOURS[n % len(COLOURS)]
        step = max(1, len(points) // 120)
        drawn = " ".join(at(t, v) for t, v in points[::step])
        out.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}"/>')
        if n < LEGENDS:
            x, y = 10 + n % 3 * 95, bottom + 12 + n // 3 * 10
            words = legend if len(legend) < 20 else legend[:18] + "…"
            more = f" (+{len(lines) - LEGENDS})" if n == LEGENDS - 1 and len(lines) > LEGENDS else ""
            out.append(f'<text x="{x}" y="{y}" fill="{colour}">{escape(words + more)}</text>')
    return out
