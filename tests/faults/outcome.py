"""What a run came to after a fault: counted in storage by `verify`, never by what the run says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from pyarrow import compute

from pipeline.verify import verify_output
from tests.views import view_at


@dataclass(frozen=True)
class Outcome:
    """One scenario. lost: asked for and not in the view, or without its image; doubled: in the view twice."""

    fault: str
    kills: int
    asked: int
    edits: int
    failures: int
    lost: int
    doubled: int
    repeated_rows: int
    """Raw rows that the view drops."""
    orphans: int
    made_again: int = 0
    """Edits made whose rows one run did not bring to storage, at most: what was in flight, and is made again."""
    note: str = ""

    def check(self, expected: tuple[int, int, str] | None = None) -> None:
        """Raise AssertionError where a row was lost or doubled, or is not accounted for; expected: edits, failures and
        note, of a scenario that ends alike each time."""
        assert (self.lost, self.doubled) == (0, 0), f"{self.lost} lost, {self.doubled} doubled"
        counted = self.edits + self.failures
        assert counted == self.asked, f"{self.edits} edits + {self.failures} failures of {self.asked} asked"
        came_to = (self.edits, self.failures, self.note)
        assert expected in (None, came_to), f"came to {came_to}, not to {expected}"


class NotPossible(Exception):
    """What a scenario needs and this machine does not give."""


def outcome(fault: str, output: str, *, kills: int = 0, made_again: int = 0, note: str = "") -> Outcome:
    """Count what storage holds of the first run of an output."""
    check = verify_output(output)[0].check
    lost = check.missing + check.absent + check.altered + check.outside + check.unasked
    return Outcome(
        fault=fault,
        kills=kills,
        asked=check.asked,
        edits=check.edits,
        failures=check.failures,
        lost=lost,
        doubled=check.doubled,
        repeated_rows=check.repeats,
        orphans=check.orphans,
        made_again=made_again,
        note=note,
    )


def view_of(output: str) -> Mapping[tuple[str, str], tuple[str, str]]:
    """The view by (source's name, edit): equal for two outputs of equal inputs, wherever these lie."""
    view = view_at(output)
    rows = {}
    for table, kind, what in ((view.edits, "edits", "image_sha256"), (view.failures, "failures", "error_type")):
        names = compute.split_pattern(table["source_uri"], "/").to_pylist()
        for name, edit, value in zip(names, table["edit_id"].to_pylist(), table[what].to_pylist(), strict=True):
            rows[name[-1], edit] = (kind, value)
    return rows
