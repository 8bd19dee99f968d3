"""Which benchmark is run: reports, sizes, and the work units that they come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.identity import canonical_json, sha256_bytes

if TYPE_CHECKING:
    from eim_ops.bench.cases import Split, World
    from eim_ops.bench.contenders import Contender

Captions = Literal["truth", "vlm"]
"""Prompts that state what a face is, or what mini-vlm sees in it."""

CHUNK = 48
"""Cases of one work unit: three full batches of 16, each attribute four times."""
PICTURES = 8
"""The first cases, whose edited images the rows keep."""
TUNING_CASES = 64


@dataclass(frozen=True)
class Report:
    """One report: faces of a world, edited with prompts of one kind."""

    world: "World"
    captions: Captions

    @property
    def name(self) -> str:
        """As the command line and the folders call it."""
        return f"{self.world}-{self.captions}"


HEADLINE = Report("correlated", "vlm")
"""The report whose figures are the benchmark's: as it is with real images, attributes correlate and prompts err."""
REPORTS: Mapping[str, Report] = {
    report.name: report
    for report in (
        HEADLINE, Report("correlated", "truth"), Report("independent", "vlm"), Report("independent", "truth"),
    )
}  # fmt: skip


_ROWS_VERSION = 2
"""To be raised with every change of the method, a peer, a measure or the renderer that changes what rows say."""


@dataclass(frozen=True)
class Models:
    """What is measured and what measures, by name and revision: all of it changes rows."""

    backbone: str
    backbone_revision: str
    captioner_revision: str
    judge_revision: str
    batch: int = 16


@dataclass(frozen=True)
class CaseChunk:
    """Cases [start, stop) of one split of one world."""

    world: "World"
    split: "Split"
    start: int
    stop: int

    def key(self, models: Models) -> str:
        """Where the cases with their prompts are."""
        name = f"{self.world}-{self.split}-{self.start:05d}-{self.stop:05d}"
        return f"cases/{name}-{_digest({'captioner': models.captioner_revision})}.parquet"


@dataclass(frozen=True)
class Unit:
    """One contender on one chunk of cases, prompts of one kind."""

    contender: "Contender"
    cases: CaseChunk
    captions: Captions

    def key(self, models: Models) -> str:
        """Where its rows are: named by all that they depend on, so that a stopped or a larger run does what is left."""
        content = {
            "contender": self.contender.content,
            "cases": vars(self.cases),
            "captions": self.captions,
            "models": vars(models),
            "version": _ROWS_VERSION,
        }
        return f"rows/{_digest(content)}.parquet"


def _digest(content: Mapping[str, Any]) -> str:
    return sha256_bytes(canonical_json(content).encode())[:16]


def chunks(world: "World", split: "Split", count: int) -> list[CaseChunk]:
    """`count` cases cut into chunks."""
    return [CaseChunk(world, split, start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def units(report: Report, split: "Split", count: int, contenders: "Sequence[Contender]") -> list[Unit]:
    """Every contender on every chunk."""
    cut = chunks(report.world, split, count)
    return [Unit(contender, chunk, report.captions) for contender in contenders for chunk in cut]
