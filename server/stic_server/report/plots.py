"""Figures of the report as inline SVG whose colours are CSS variables, so they follow the page.

Matplotlib draws with stand-in colours; afterwards each becomes `var(--name)`. Text stays text,
in the page's own font. Each figure is a small panel: the page puts panels side by side where
there is room and under one another where there isn't.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stic_core.evaluation.document import ReliabilityBin

SITE_COLOURS = 8
"""Sites beyond this many share colours; dashes still tell them apart."""

# Stand-ins: no two alike, none that matplotlib would write in another way.
_STAND_IN = {
    "ink": "#010203",
    "muted": "#040506",
    "grid": "#070809",
    "best": "#0a0b0c",
    "paper": "#0d0e0f",
    **{f"s{index}": f"#1{index}1{index}1{index}" for index in range(1, SITE_COLOURS + 1)},
}
_DASHES = ("-", (0, (5, 1.6)), (0, (1.5, 1.5)), (0, (5, 1.6, 1.2, 1.6)))
_SQUARE = (3.4, 3.3)
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 11.0,
    "axes.edgecolor": _STAND_IN["muted"],
    "axes.labelcolor": _STAND_IN["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _STAND_IN["grid"],
    "grid.linewidth": 0.7,
    "text.color": _STAND_IN["ink"],
    "xtick.color": _STAND_IN["muted"],
    "ytick.color": _STAND_IN["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.solid_capstyle": "round",
}


def colour_names(sites: Sequence[str]) -> dict[str, str]:
    """CSS variable of each site, in the order given."""
    return {site: f"s{index % SITE_COLOURS + 1}" for index, site in enumerate(sites)}


def learning_curve(
    rounds: Sequence[int],
    curves: Mapping[str, Sequence[float | None]],
    *,
    sites: Sequence[str],
    label: str,
    best: int | None,
) -> str:
    """One quantity by round.

    Args:
        rounds: x of every curve.
        curves: values by site, and by `pooled`; None where a site has none.
        sites: all sites, for their colours.
        label: what the figure shows, read out by screen readers.
        best: the round whose model was kept.
    """
    with _panel(label) as (figure, axes):
        if best is not None:
            axes.axvline(best, color=_STAND_IN["best"], linewidth=1.2, linestyle=(0, (2, 2)))
            axes.annotate(
                f"round {best} kept",
                (best, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=10,
                color=_STAND_IN["best"],
            )
        for name, values in curves.items():
            shown = [float("nan") if value is None else value for value in values]
            # A marker shows a value between two rounds without one, which no line would.
            axes.plot(rounds, shown, marker="o", markersize=2.2, **_line(name, sites))
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        return _svg(figure, label)


def roc(
    curves: Mapping[str, Sequence[Sequence[float]]],
    *,
    sites: Sequence[str],
    label: str,
    readers: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]] | None = None,
) -> str:
    """ROC curves of one class, with readers' points.

    Args:
        curves: (false, true positive rate) points by site and `pooled`.
        sites: all sites, for their colours.
        label: what the figure shows, read out by screen readers.
        readers: by site and reader the point `alone` (hollow) and `aided` (filled), with the reader's name.
    """
    with _panel(label, size=_SQUARE) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=_STAND_IN["muted"], linewidth=0.8, linestyle=(0, (2, 3)))
        for name, points in curves.items():
            axes.plot([x for x, _ in points], [y for _, y in points], **_line(name, sites))
        for site, found in (readers or {}).items():
            colour = _line(site, sites)["color"]
            for reader, points in found.items():
                ends = list(points.values())
                axes.plot([x for x, _ in ends], [y for _, y in ends], color=colour, linewidth=0.9, zorder=4)
                for condition, (x, y) in points.items():
                    fill = colour if condition == "aided" else _STAND_IN["paper"]
                    axes.scatter([x], [y], s=42, facecolors=fill, edgecolors=colour, linewidths=1.6, zorder=5)
                if ends:
                    axes.annotate(
                        reader.removeprefix("reader "),
                        ends[-1],
                        xytext=(6, -4),
                        textcoords="offset points",
                        fontsize=9,
                        color=colour,
                        zorder=6,
                    )
        _unit_axes(axes, x="1 - specificity", y="sensitivity")
        return _svg(figure, label)


def reliability(curves: Mapping[str, Sequence[ReliabilityBin]], *, sites: Sequence[str], label: str) -> str:
    """Observed against predicted, by site and `pooled`; a dot's area grows with its patients."""
    with _panel(label, size=_SQUARE) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=_STAND_IN["muted"], linewidth=0.8, linestyle=(0, (2, 3)))
        for name, groups in curves.items():
            x, y = [g.predicted for g in groups], [g.observed for g in groups]
            style = _line(name, sites)
            axes.plot(x, y, **{**style, "linewidth": style["linewidth"] * 0.7})
            if name == "pooled":
                most = max((g.n for g in groups), default=1)
                areas = [10 + 60 * g.n / most for g in groups]
                axes.scatter(x, y, s=areas, color=_STAND_IN["ink"], linewidths=0, zorder=3)
        _unit_axes(axes, x="predicted probability", y="observed share")
        return _svg(figure, label)


def models(rows: Sequence[Mapping[str, Any]], *, what: str, label: str) -> str:
    """One dot and one line per model, and chance: `name`, `value`, `low`, `high`, `strong`; ends may be None.

    Args:
        rows: the models, from top to bottom.
        what: names the axis.
        label: what the figure shows, read out by screen readers.
    """
    with _panel(label, size=(4.6, 0.75 + 0.42 * len(rows))) as (figure, axes):
        axes.axvline(0.5, color=_STAND_IN["muted"], linewidth=1.0, linestyle=(0, (2, 2)))
        for y, row in enumerate(reversed(rows)):
            colour = _STAND_IN["s1" if row["strong"] else "muted"]
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.2)
            axes.plot([row["value"]], [y], marker="o", markersize=7, color=colour)
        axes.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
        axes.tick_params(axis="y", length=0, labelcolor=_STAND_IN["ink"])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        lowest = min(row["low"] if row["low"] is not None else row["value"] for row in rows)
        axes.set_xlim(max(0.0, min(0.48, lowest - 0.03)), 1.0)
        axes.set_xlabel(f"{what} (0.5 is chance, 1 is perfect)")
        return _svg(figure, label)


def differences(rows: Sequence[Mapping[str, Any]], *, widest: float, label: str) -> str:
    """A dot and its interval per comparison, around the line of no difference.

    Args:
        rows: `name`, `value`, `low`, `high`.
        widest: the largest end of all panels that stand side by side, so that they share a scale.
        label: what the figure shows, read out by screen readers.
    """
    with _panel(label, size=(2.9, 0.8 + 0.32 * len(rows))) as (figure, axes):
        axes.axvline(0.0, color=_STAND_IN["muted"], linewidth=1.0)
        for y, row in enumerate(reversed(rows)):
            axes.plot([row["low"], row["high"]], [y, y], color=_STAND_IN["s1"], linewidth=2.2)
            axes.plot([row["value"]], [y], marker="o", markersize=7, color=_STAND_IN["s1"])
        axes.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
        axes.tick_params(axis="y", length=0, labelcolor=_STAND_IN["ink"])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        reach = 1.08 * max(0.05, widest)
        axes.set_xlim(-reach, reach)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, symmetric=True))
        axes.set_xlabel("federated minus other")
        return _svg(figure, label)


@contextmanager
def _panel(label: str, *, size: tuple[float, float] = (3.6, 2.6)) -> Iterator[tuple[Figure, Axes]]:
    """A figure under the house style, inches; equal labels give equal bytes."""
    style: Any = {**_STYLE, "svg.hashsalt": label}
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.add_subplot()


def _line(name: str, sites: Sequence[str]) -> dict[str, Any]:
    if name == "pooled":
        return {"color": _STAND_IN["ink"], "linewidth": 2.4, "zorder": 3}
    index = list(sites).index(name)
    return {
        "color": _STAND_IN[f"s{index % SITE_COLOURS + 1}"],
        "linewidth": 1.5,
        "linestyle": _DASHES[index % len(_DASHES)],
    }


def _unit_axes(axes: Axes, *, x: str, y: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, aspect="equal")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])


def _svg(figure: Figure, label: str) -> str:
    """The figure as an element for a page: variables for colours, no ids that could clash."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Glyph-free text only needs a size; family and colour come from the page.
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    salt = re.sub(r"[^a-z0-9]+", "-", label.lower())
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{salt}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{salt}-", text)
    for name, colour in _STAND_IN.items():
        text = text.replace(colour, f"var(--{name})")
    view = re.search(r'viewBox="[^"]+"', text)
    # A page's parser knows the names of SVG, so the file needs no namespace and names no address.
    text = re.sub(r"^<svg[^>]*>", "", text).replace("xlink:href", "href").strip()
    return f'<svg {view[0] if view else ""} role="img" aria-label="{html.escape(label)}">{text}'
