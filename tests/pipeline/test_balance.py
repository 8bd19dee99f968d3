from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.balance import OTHER, Balance, Value, counted
from pipeline.ledger import Ledger
from pipeline.schema import EDITS, FAILURES, table_of
from pipeline.storage import open_store
from tests.pipeline.builders import edit_row, failure_row

BALANCE = Balance.of({"smile": {"broad smile": 3, "frown": 1}, "hat": {"cap": 1, "hood": 1}})


def test_shares_add_up_and_attributes_count_alike() -> None:
    assert sum(BALANCE.shares.values()) == pytest.approx(1)
    assert BALANCE.shares["smile", "broad smile"] == pytest.approx(0.75 / 3)
    assert BALANCE.shares["hat", "cap"] == pytest.approx(0.5 / 3)
    assert BALANCE.shares[OTHER] == pytest.approx(1 / 3)


def distance(balance: Balance, counts: Mapping[Value, int]) -> float:
    """Pearson's chi-square of the counts against the shares, over their total; 0: as wanted."""
    total = sum(counts[value] for value in balance.shares)
    if not total:
        return 0.0
    return sum((counts[value] / total - share) ** 2 / share for value, share in balance.shares.items())


def test_the_view_tells_what_is_there_and_prompts_what_sources_show(root: str) -> None:
    store = open_store(root)
    plain = {"fingerprint": "f", "sample_id": "aa", "attribute": "smile", "target": "frown"}
    prompt = "a man with a Broad smile, red hair"
    rows = [
        edit_row(**{**plain, "edit_id": "1", "source_prompt": prompt}),
        edit_row(**{**plain, "edit_id": "1", "image_sha256": "y", "source_prompt": prompt}),  # a repeat
        edit_row(**{**plain, "edit_id": "2", "strength": -1.0, "source_prompt": prompt}),  # away from a frown
        edit_row(
            **{**plain, "edit_id": "3", "attribute": "smile + hat", "target": "frown + cap", "source_prompt": prompt}
        ),
        edit_row(**{**plain, "edit_id": "4", "attribute": "age", "target": "old", "source_prompt": prompt}),
        edit_row(**{**plain, "sample_id": "ab", "edit_id": "1", "source_prompt": "a woman with a cape"}),
        edit_row(**{**plain, "edit_id": "5", "fingerprint": "of others"}),
    ]
    for row in rows:
        bucket = row["sample_id"]
        name = "-".join((row["edit_id"], row["image_sha256"], row["fingerprint"][:1]))
        store.write_table(f"edits/bucket={bucket}/part-{name}.parquet", table_of([row], EDITS))
    failed = failure_row(**{"fingerprint": "f", "sample_id": "aa", "edit_id": "9", "target": "frown"})
    store.write_table("failures/bucket=aa/part-1.parquet", table_of([failed], FAILURES))
    ledger, buckets = Ledger(store, "f"), ["aa", "ab", "ac"]
    there = {("smile", "frown"): 3, ("hat", "cap"): 1, OTHER: 2}
    assert counted(ledger, buckets, BALANCE, False) == Counter(there)
    assert counted(ledger, buckets, BALANCE, True) == Counter({**there, ("smile", "broad smile"): 1})


counts = st.lists(st.integers(0, 50), min_size=5, max_size=5)


@given(counts)
def test_what_is_most_urgent_adds_least_to_the_distance(numbers: list[int]) -> None:
    there = Counter(dict(zip(BALANCE.shares, numbers, strict=True)))
    urgent = min(BALANCE.shares, key=lambda value: BALANCE.urgency((value,), there))
    best = distance(BALANCE, there + Counter({urgent: 1}))
    assert all(best <= distance(BALANCE, there + Counter({value: 1})) + 1e-12 for value in BALANCE.shares)
