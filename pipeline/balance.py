"""Which of the edits that are left come first: those of the attribute values that are furthest below their share.

Every edit of a positive strength brings the values that it is asked to show; what brings none of the balanced values
is one more attribute of one value, so that it has a turn as well. An attribute's shares add up to 1, and attributes
count alike. The next edit is of the values whose (2 n + 1) / share is least, n of them being there: where edits bring
one value each, no choice of as many edits has a smaller Pearson distance, sum of (n - N share)^2 / share, since that
sum is separable and convex, and each step takes what adds least to it. Of a composed edit the mean over its values
counts, a rule without that proof.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.asked_edits import JOINER, AskedEdit
from pipeline.ledger import Ledger

Value = tuple[str, str]
"""(attribute, value)."""
OTHER: Value = ("", "")
"""What edits bring that bring no balanced value."""
Values = tuple[Value, ...]

_COUNTED = ("attribute", "target", "strength", "source_prompt")


@dataclass(frozen=True)
class Balance:
    """The wanted shares, adding up to 1 over all values of all attributes and OTHER; none: edits come as they are."""

    shares: Mapping[Value, float]

    @classmethod
    def of(cls, wanted: Mapping[str, Mapping[str, float]]) -> "Balance":
        """From attribute -> value -> weight."""
        if not wanted:
            return cls({})
        each = 1 / (len(wanted) + 1)
        shares = {
            (attribute, value): each * weight / sum(weights.values())
            for attribute, weights in wanted.items()
            for value, weight in weights.items()
        }
        return cls({**shares, OTHER: each})

    def brought(self, attributes: Sequence[str], targets: Sequence[str], strength: float) -> Values:
        """The balanced values that an edit brings, in order, or OTHER."""
        pairs = zip(attributes, targets, strict=True) if strength > 0 else ()
        return tuple(sorted(pair for pair in pairs if pair in self.shares)) or (OTHER,)

    def values_of(self, edit: AskedEdit) -> Values:
        """As `brought`."""
        return self.brought(edit.attributes, edit.targets, edit.strength)

    def urgency(self, values: Values, counts: Mapping[Value, int]) -> float:
        """How far what an edit brings is from being wanted: the least comes first."""
        return sum((2 * counts[value] + 1) / self.shares[value] for value in values) / len(values)


def counted(ledger: Ledger, buckets: Iterable[str], balance: Balance, sources: bool) -> Counter[Value]:
    """How often each value is there, bucket by bucket; with `sources`, also in the prompts of the sources edited."""
    counts: Counter[Value] = Counter()
    for bucket in buckets:
        edits = ledger.bucket(bucket, _COUNTED).edits
        counts += _of_edits(edits, balance)
        if sources:
            counts += _of_sources(edits, balance)
    return counts


def _of_edits(edits: pa.Table, balance: Balance) -> Counter[Value]:
    positive = edits.select(["attribute", "target"]).append_column("up", pc.greater(edits["strength"], 0))
    counts: Counter[Value] = Counter()
    for row in positive.group_by(["attribute", "target", "up"]).aggregate([([], "count_all")]).to_pylist():
        attributes, targets = row["attribute"].split(JOINER), row["target"].split(JOINER)
        if len(attributes) != len(targets):  # a text of the user's own holds the joiner
            attributes, targets = [row["attribute"]], [row["target"]]
        for value in balance.brought(attributes, targets, 1.0 if row["up"] else 0.0):
            counts[value] += row["count_all"]
    return counts


def _of_sources(edits: pa.Table, balance: Balance) -> Counter[Value]:
    """Each source once for each value that its prompt states in whole words."""
    prompts = edits.group_by(["sample_id"]).aggregate([("source_prompt", "min")])["source_prompt_min"]
    counts: Counter[Value] = Counter()
    for attribute, value in balance.shares:
        if value:
            stated = pc.match_substring_regex(prompts, rf"\b{re.escape(value)}\b", ignore_case=True)
            counts[attribute, value] += pc.sum(stated).as_py() or 0
    return counts
