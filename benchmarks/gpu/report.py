"""A report that is written after each part, so that a run that is cut off keeps what it has."""

import gc
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

NOT_MEASURED = "not_measured"
"""The key under which a part that gave no figures says why."""


@dataclass
class Report:
    """Parts by path, such as `sd3.5-medium/velocity/4`. only: names of parts to run; empty: all. seconds: the limit
    for the whole run; a part that begins later is not measured."""

    file: Path
    head: Mapping[str, Any]
    only: Collection[str] = ()
    seconds: float = 3600.0
    parts: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self._started + self.seconds - time.monotonic()

    def part(self, path: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """Run a part and write its figures, or why there are none; None in that case, or where it isn't asked for."""
        if self.only and not set(self.only) & set(path.split("/")):
            return None
        if self.left <= 0:
            return self._write(path, {NOT_MEASURED: f"the {self.seconds:g} seconds were over"})
        started = time.monotonic()
        try:
            figures = dict(measure())
        except Exception as error:
            figures = {NOT_MEASURED: f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        figures["wall_seconds"] = time.monotonic() - started
        free()
        return self._write(path, figures)

    def skip(self, path: str, why: str) -> None:
        """Tell why a part has no figures."""
        self.part(path, lambda: {NOT_MEASURED: why})

    def _write(self, path: str, figures: Mapping[str, Any]) -> Mapping[str, Any] | None:
        self.parts[path] = dict(figures)
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({**self.head, "parts": self.parts}, indent=1) + "\n")
        partial.replace(self.file)
        print(path, json.dumps(self.parts[path]), flush=True)
        return None if NOT_MEASURED in figures else figures


def free() -> None:
    """Give back what the last part held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
