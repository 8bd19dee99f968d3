"""From the benchmark's rows to its figures: one line a method, and what ours is against the best of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eim_ops.bench.contenders import UNEDITED
from eim_ops.bench.curve import Point, cost_at
from eim_ops.faces.attributes import ATTRIBUTES
from eim_ops.metrics.control import FEWEST, pearson
from eim_ops.metrics.disentanglement import disentanglement

Rows = Sequence[Mapping[str, Any]]
Figures = Mapping[str, float]
FIGURES = ("success", "kept", "on_target", "off_target", "psnr_true")
_HALVES = {"text": "text_half", "image": "image_half_hsds", "joint": "joint_hsds"}
_ABOUT_EQUAL = 0.05
"""A peer whose success is no more than this below ours counts as one that succeeds as often."""


@dataclass(frozen=True)
class Table:
    """Means over cases by (method, strength), in the order of the rows. families: of each method."""

    figures: Mapping[tuple[str, float], Figures]
    families: Mapping[str, str]

    def at(self, method: str, strength: float = 1.0) -> Figures | None:
        """The figures of one method, or None."""
        return self.figures.get((method, strength))

    def curve(self, method: str) -> list[Figures]:
        """The figures of one method at its positive strengths, and those of no edit."""
        own = [figures for (its, strength), figures in self.figures.items() if its == method and strength > 0]
        return [*own, *self.family("round_trip", UNEDITED.name)]

    def family(self, family: str, name: str | None = None) -> list[Figures]:
        """The figures at strength 1 of all methods of a family, or of the one of this name."""
        methods = [m for m, its in self.families.items() if its == family and name in (None, m)]
        return [self.figures[method, 1.0] for method in methods]

    @property
    def peers(self) -> list[str]:
        """The families that are neither ours nor a reference."""
        return [family for family in dict.fromkeys(self.families.values()) if family not in ("eim", "round_trip")]


def tabulate(rows: Rows) -> Table:
    """Means over cases of every method at every strength; of seconds the median."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["strength"]), []).append(row)
    return Table({key: _averages(its) for key, its in groups.items()}, {row["method"]: row["family"] for row in rows})


def _averages(rows: Rows) -> Figures:
    means = {figure: float(np.mean([row[figure] for row in rows])) for figure in (*FIGURES, "evaluations")}
    seconds = float(np.median([row["seconds"] for row in rows]))
    return {
        **{figure: means[figure] for figure in FIGURES},
        "nfe_per_edit": means["evaluations"],
        "seconds_per_edit": seconds,
    }


def summarise(rows: Rows) -> dict[str, Any]:
    """`methods`: figures at strength 1. `peers`: each at equal effect with ours, null where it never gets there. `eim`:
    comparisons, null where what they take was not run. `strengths`: ours by strength. `disentanglement`: the degree of
    each half."""
    table = tabulate(rows)
    peers = {family: _at_equal(table, family) for family in table.peers}
    own = {f"{strength:g}": figures for (name, strength), figures in table.figures.items() if name == "eim"}
    return {
        "methods": {name: figures for (name, strength), figures in table.figures.items() if strength == 1.0},
        "peers": peers,
        "eim": _comparisons(rows, table, peers),
        "strengths": own,
        "disentanglement": {half: sde(rows, half) for half in _HALVES},
    }


def _points(figures: Sequence[Figures], effect: str, cost: str, sign: int = 1) -> list[Point]:
    return [(its[effect], sign * its[cost]) for its in figures]


def _at_equal(table: Table, family: str) -> dict[str, float | None]:
    """A peer's off-target change at our on-target change, and its PSNR at our success; mixed with not editing where
    that is to its gain."""
    ours = table.at("eim")
    its = [*table.family(family), *table.family("round_trip", UNEDITED.name)]
    if ours is None:
        return {"off_target": None, "psnr_true": None}
    loss = cost_at(_points(its, "success", "psnr_true", -1), ours["success"])
    return {
        "off_target": cost_at(_points(its, "on_target", "off_target"), ours["on_target"]),
        "psnr_true": None if loss is None else -loss,
    }


def _comparisons(rows: Rows, table: Table, peers: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    ours = table.at("eim")
    leaks = [its["off_target"] for its in peers.values() if its["off_target"]]
    decibels = [its["psnr_true"] for its in peers.values() if its["psnr_true"] is not None]
    flowedit = cheapest_equal(table, "flowedit")
    correlations = by_case(rows, "eim")
    deficits = [row["triangle_deficit"] for row in rows if row["method"] == "eim" and row["strength"] == 1.0]
    return {
        "success": ours["success"] if ours else None,
        "kept": ours["kept"] if ours else None,
        "off_target_ratio_to_best_peer": ours["off_target"] / min(leaks) if ours and leaks else None,
        "psnr_gain_over_best_peer_db": ours["psnr_true"] - max(decibels) if ours and decibels else None,
        "pearson_r_median": float(np.median(correlations)) if correlations else None,
        "triangle_deficit_mean": float(np.mean(deficits)) if deficits and deficits[0] is not None else None,
        "hsds_over_dds_image_half": _leak_ratio(table, "image_half_hsds", "image_half_dds", None),
        "hsds_over_dds_joint": _leak_ratio(table, "joint_hsds", "joint_dds", 1.0),
        "hsds_accepted": _accepted(rows),
        "nfe_ratio_to_flowedit": ours["nfe_per_edit"] / flowedit["nfe_per_edit"] if ours and flowedit else None,
    }


def cheapest_equal(table: Table, family: str) -> Figures | None:
    """A peer's point of fewest evaluations among those that succeed about as often as ours with a PSNR not below it;
    where none does, the one of highest PSNR among those that succeed so often, else its most successful one."""
    points, ours = table.family(family), table.at("eim")
    if not points:
        return None
    close = [its for its in points if ours and its["success"] >= ours["success"] - _ABOUT_EQUAL]
    equal = [its for its in close if ours and its["psnr_true"] >= ours["psnr_true"]]
    if equal:
        return min(equal, key=lambda its: (its["nfe_per_edit"], -its["psnr_true"]))
    return max(close, key=lambda its: its["psnr_true"]) if close else max(points, key=lambda its: its["success"])


def _leak_ratio(table: Table, method: str, other: str, strength: float | None) -> float | None:
    """Off-target change of one method over that of another at equal on-target change, strengths mixed: at the effect
    that the first has at `strength`, or with None at the largest that both reach.

    One of the two that has no rows is our default, and so `eim`.
    """
    there = [name for name in (method, other) if name in table.families]
    if not there:
        return None
    method, other = (name if name in there else "eim" for name in (method, other))
    own, others = (_points(table.curve(name), "on_target", "off_target") for name in (method, other))
    at = None if strength is None else table.at(method, strength)
    effect = min(max(its)[0] for its in (own, others)) if at is None else at["on_target"]
    if effect <= 0:
        return None
    leaks = [at["off_target"] if at else cost_at(own, effect), cost_at(others, effect)]
    return leaks[0] / leaks[1] if leaks[0] is not None and leaks[1] else None


def _accepted(rows: Rows) -> float | None:
    """Of the directions that HSDS was asked for, the part that it gave; for the others DDS explained as much."""
    methods = [row["direction_method"] for row in rows if row["method"] == "joint_hsds" and row["strength"] == 1.0]
    return methods.count("hsds") / len(methods) if methods else None


def by_case(rows: Rows, method: str) -> list[float]:
    """Pearson r of strength against the change the asked way, of each case of a continuous attribute: negative where
    the edit goes the other way, 0 where nothing moves. Empty where there are too few strengths."""
    cases: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["method"] == method and row["kind"] == "continuous":
            cases.setdefault(row["case"], []).append(row)
    return [
        pearson([row["strength"] for row in its], [row["on_target"] for row in its]) or 0.0
        for its in cases.values()
        if len(its) >= FEWEST
    ]


def sde(rows: Rows, half: str) -> dict[str, Any] | None:
    """The disentanglement of one half (`text`, `image`, `joint`) by the rows of `method` at strength 1; null is what
    never moved the asked way. rows_moved: of the matrix, those that the degree is the mean of."""
    names = {row["method"] for row in rows}
    method = _HALVES[half] if _HALVES[half] in names else "eim" if half == "joint" else None
    own = [row for row in rows if row["method"] == method and row["strength"] == 1.0]
    if not own:
        return None
    found = disentanglement(
        [row["attribute"] for row in own],
        np.array([row["on_target"] for row in own]),
        np.array([row["changes"] for row in own]),
        [attribute.name for attribute in ATTRIBUTES],
    )
    return {
        "method": method,
        "degree": _known(found.degree),
        "rows_moved": int(np.isfinite(found.matrix).all(1).sum()),
        "attributes": list(found.attributes),
        "matrix": [[_known(value) for value in line] for line in found.matrix.tolist()],
    }


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
