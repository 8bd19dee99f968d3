"""When so much fails that a run stops."""

from dataclasses import dataclass

from pipeline.ledger import Account

_EDITS, _IMAGES = 1000, 100
"""So many edits, of so many images, tell a model that makes nothing from damaged files: images come in the order of
their hashed ids, so that the good ones are among the damaged."""


class TooManyFailures(Exception):
    """More edits failed than the recipe allows, or nothing but failures came."""


@dataclass(frozen=True)
class FailureLimit:
    """most: failures there may be, those of earlier runs among them. failed: how many these are. unbroken: failures
    that stop a run which has brought no edit; None: none do."""

    most: int
    failed: int = 0
    unbroken: int | None = None

    def problem(self, edits: int, failures: int) -> str | None:
        """Why a run stops that has brought so many of both itself; None where it goes on."""
        if (failed := self.failed + failures) > self.most:
            earlier = f", {self.failed} of them in earlier runs" if self.failed else ""
            earlier = " in earlier runs" if failed == self.failed else earlier
            return f"{failed} edits failed{earlier}, more than the {self.most} that max_failure_fraction allows"
        if self.unbroken is not None and not edits and failures >= self.unbroken:
            return f"the first {failures} edits all failed; where that is meant, set max_failure_fraction to 1"
        return None


def failure_limit(fraction: float, before: Account) -> FailureLimit:
    """The limit of a recipe's `max_failure_fraction` for a run that begins with this account."""
    unbroken = None if before.edits or fraction == 1 else max(_EDITS, _IMAGES * before.edits_per_image)
    return FailureLimit(int(fraction * before.asked), before.failures, unbroken)
