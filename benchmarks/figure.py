"""What a measurement gives: figures, each with its bar and with how it was got."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """value: what was measured. bar: what it is held to, as a `floor` or a `ceiling`; None: shown only. how: sizes and
    arithmetic, in words. parts: the figures that it was made of."""

    value: float
    how: str
    bar: float | None = None
    side: Literal["floor", "ceiling"] = "floor"
    parts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.side == "floor" else self.value <= self.bar


Figures = dict[str, Figure]


def plain(figures: Figures) -> dict[str, dict[str, Any]]:
    """As JSON has them, each with whether it is met."""
    return {key: {**asdict(figure), "met": figure.met} for key, figure in figures.items()}


def save(path: Path, figures: Figures) -> None:
    """As JSON, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(plain(figures), indent=1) + "\n")
    partial.rename(path)


def load(path: Path) -> Figures:
    """What `save` wrote."""
    content = json.loads(path.read_text())
    return {key: Figure(**{k: v for k, v in its.items() if k != "met"}) for key, its in content.items()}


def table(figures: Figures) -> str:
    """A Markdown table of all figures."""
    lines = ["| figure | value | bar | met | how |", "| --- | --- | --- | --- | --- |"]
    for key, figure in figures.items():
        bar = "" if figure.bar is None else f"{'≥' if figure.side == 'floor' else '≤'} {figure.bar:g}"
        met = {None: "", True: "yes", False: "**no**"}[figure.met]
        lines.append(f"| `{key}` | {figure.value:.4g} | {bar} | {met} | {figure.how} |")
    return "\n".join(lines)
