"""The benchmark's plots, each as PNG and as SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from eim_ops.bench.summary import Table

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "eim",
}
_FORMATS: Mapping[str, Any] = {"png": {"dpi": 140}, "svg": {"metadata": {"Date": None}}}
Plots = Mapping[str, bytes]
"""File names and contents."""


def plots(table: "Table", rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Plots:
    """All plots that the rows carry."""
    with matplotlib.rc_context(_STYLE):
        made = {"pareto": pareto_plot(table)}
        if len([strength for name, strength in table.figures if name == "eim"]) > 1:
            made["control"] = control_plot(rows)
        if any(summary["disentanglement"].values()):
            made["disentanglement"] = disentanglement_plot(summary["disentanglement"])
        return {f"{name}.{kind}": _file(figure, kind) for name, figure in made.items() for kind in _FORMATS}


def _file(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, bbox_inches="tight", **_FORMATS[kind])
    return buffer.getvalue()


def pareto_plot(table: "Table") -> Figure:
    """Effect against harm: every peer's settings, ours by strength, and the ceiling."""
    figure = Figure(figsize=(10, 4.4))
    left, right = figure.subplots(1, 2)
    _curves(left, table, "on_target", "off_target")
    left.set(xlabel="change of the asked attribute (spreads)", ylabel="change of the others (spreads)")
    left.set_title("less is better", loc="left")
    _curves(right, table, "success", "psnr_true")
    right.set(xlabel="asked value reached (fraction of cases)", ylabel="PSNR to the true edit (dB)")
    right.set_title("more is better", loc="left")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=6, bbox_to_anchor=(0.5, -0.12))
    figure.tight_layout()
    return figure


def _curves(axes: Axes, table: "Table", effect: str, cost: str) -> None:
    ours = sorted((strength, its) for (name, strength), its in table.figures.items() if name == "eim" and strength > 0)
    axes.plot([i[effect] for _, i in ours], [i[cost] for _, i in ours], "o-", color="black", label="eim, by strength")
    for strength, its in ours:
        axes.annotate(f"{strength:g}", (its[effect], its[cost]), textcoords="offset points", xytext=(4, 4), fontsize=7)
    for number, family in enumerate(table.peers):
        points = sorted((its[effect], its[cost]) for its in table.family(family))
        axes.plot(*zip(*points, strict=True), "s--", color=f"C{number}", ms=4, lw=0.8, label=family)
    for name, marker in (("ceiling", "*"), ("unedited", "x")):
        for its in table.family("round_trip", name):
            axes.plot(its[effect], its[cost], marker, color="grey", ms=9, ls="none", label=name)


def control_plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Of each continuous attribute, how far ours went the asked way by strength: cases, and their mean."""
    own = [row for row in rows if row["method"] == "eim" and row["kind"] == "continuous"]
    attributes = list(dict.fromkeys(row["attribute"] for row in own))
    figure = Figure(figsize=(2.1 * max(1, len(attributes)), 2.4))
    for axes, attribute in zip(
        np.atleast_1d(figure.subplots(1, len(attributes), sharey=True)), attributes, strict=True
    ):
        cases: dict[int, list[tuple[float, float]]] = {}
        for row in own:
            if row["attribute"] == attribute:
                cases.setdefault(row["case"], []).append((row["strength"], row["on_target"]))
        lines = [sorted(points) for points in cases.values()]
        for line in lines:
            axes.plot(*zip(*line, strict=True), color="grey", lw=0.4, alpha=0.5)
        strengths = [strength for strength, _ in lines[0]]
        axes.plot(strengths, np.mean([[way for _, way in line] for line in lines], axis=0), "o-", color="black", ms=3)
        axes.set_title(attribute)
        axes.set_xlabel("strength")
    figure.axes[0].set_ylabel("change the asked way (spreads)")
    figure.tight_layout()
    return figure


def disentanglement_plot(halves: Mapping[str, Mapping[str, Any] | None]) -> Figure:
    """The matrices of text half, image half and joint latent: what moves (column) when one is asked (row)."""
    there = {half: its for half, its in halves.items() if its is not None}
    figure = Figure(figsize=(4.0 * len(there), 4.2))
    shown: Any = None
    for axes, (half, its) in zip(np.atleast_1d(figure.subplots(1, len(there))), there.items(), strict=True):
        names = its["attributes"]
        shown = axes.imshow(np.array(its["matrix"], dtype=float), vmin=0, vmax=0.5, cmap="magma_r")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.grid(False)
        axes.set_title(f"{half}: degree {'unknown' if its['degree'] is None else format(its['degree'], '.3f')}")
    figure.tight_layout()
    figure.colorbar(shown, ax=figure.axes, shrink=0.6, label="change per unit of asked change (0.5 and more: black)")
    return figure
