"""When so much fails that a run stops."""

from dataclasses import dataclass

_FIRST = 1000
"""Failures before any edit: enough that a folder of damaged files at the start of a listing is not taken for a model
that makes nothing."""


class TooManyFailures(Exception):
    """More edits failed than the recipe allows, or nothing but failures came."""


@dataclass(frozen=True)
class FailureLimit:
    """What may fail. most: of all edits asked for. edited, failed: what earlier runs brought."""

    most: int
    edited: int = 0
    failed: int = 0
    all_may_fail: bool = False

    def problem(self, edits: int, failures: int) -> str | None:
        """Why a run stops that has brought so many of both itself; None where it goes on."""
        if (failed := self.failed + failures) > self.most:
            earlier = f", {self.failed} of them in earlier runs" if self.failed else ""
            earlier = " in earlier runs" if failed == self.failed else earlier
            return f"{failed} edits failed{earlier}, more than the {self.most} that max_failure_fraction allows"
        if failures >= _FIRST and not (edits or self.edited or self.all_may_fail):
            return f"the first {failures} edits all failed; where that is meant, set max_failure_fraction to 1"
        return None


def failure_limit(fraction: float, asked: int, edited: int = 0, failed: int = 0) -> FailureLimit:
    """The limit of a recipe's `max_failure_fraction` where `asked` edits are asked for."""
    return FailureLimit(int(fraction * asked), edited, failed, all_may_fail=fraction == 1)
