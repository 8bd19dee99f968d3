import json
from dataclasses import replace

from pipeline.ask_records import Ask
from pipeline.estimate import Workload
from pipeline.increments import Increment, increments_of, open_increments
from pipeline.storage import open_store
from tests.pipeline.builders import SMILE, make_recipe


def increment(date: str = "2030-01-01", manifest: str = "manifest/1", fingerprint: str = "f") -> Increment:
    edits = make_recipe(edits=[{**SMILE, "request": "smile!"}]).edits
    return Increment(date, Ask(fingerprint, manifest, edits), 2, 3, Workload(1, 1, 2), 0.5)


def test_what_is_recorded_comes_back_and_is_open_until_it_is_closed(root: str) -> None:
    store = open_store(root)
    first, second = increment("2030-01-02"), increment("2030-01-01", "manifest/2")
    for its in (first, second, first):
        its.record(store)
    assert len(store.keys("augment")) == 2
    (found,) = increments_of(store, "f", "2030-01-02")
    assert (found.key, found.ask.sha256, found.work, found.gpu_hours) == (first.key, first.ask.sha256, first.work, 0.5)
    assert [its.key for its in open_increments(store, "f")] == [second.key, first.key]
    second.close(store, {"edits": 3})
    assert [its.key for its in open_increments(store, "f")] == [first.key]
    assert [its.key for its in increments_of(store, "f", "2030-01-01")] == [second.key]


def test_increments_of_other_settings_are_not_ours(root: str) -> None:
    store = open_store(root)
    increment(fingerprint="other").record(store)
    assert open_increments(store, "f") == increments_of(store, "f", "2030-01-01") == []


def test_the_same_selection_of_a_date_has_one_record_whatever_it_was_thought_to_cost(root: str) -> None:
    store, one = open_store(root), increment()
    Increment(one.date, one.ask, 2, 3, one.work, 0.7).record(store)
    one.record(store)
    (found,) = increments_of(store, "f", one.date)
    assert found.gpu_hours == 0.7


def test_each_attempt_at_a_selection_has_a_record(root: str) -> None:
    store, first = open_store(root), increment()
    second = replace(first, attempt=2)
    for its in (first, second, second):
        its.record(store)
    first.close(store, {})
    assert [its.key for its in open_increments(store, "f")] == [second.key]
    found = {its.key: its.attempt for its in increments_of(store, "f", first.date)}
    assert found == {first.key: 1, second.key: 2}
    second.close(store, {})
    assert open_increments(store, "f") == []


def test_a_record_from_before_attempts_were_counted_is_the_first(root: str) -> None:
    store, first = open_store(root), increment()
    first.record(store)
    kept = json.loads(store.read(first.key))
    del kept["attempt"]
    store.write(first.key, json.dumps(kept).encode())
    assert [(its.key, its.attempt) for its in open_increments(store, "f")] == [(first.key, 1)]
