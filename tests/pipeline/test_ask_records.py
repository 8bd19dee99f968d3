from pipeline.ask_records import Ask, read_asks
from pipeline.edit_spec import EditSpec
from pipeline.identity import edit_id
from pipeline.storage import open_store
from tests.pipeline.builders import SMILE, make_recipe

COMPOSED = {"attribute": ["smile", "hat"], "target": ["broad smile", "cap"], "strengths": [0.5, -1]}


def ids(edits: tuple[EditSpec, ...]) -> list[str]:
    return [edit_id(e.attributes, e.targets, e.requests, strength) for e in edits for strength in e.strengths]


def test_what_is_recorded_comes_back_with_the_same_edit_ids(root: str) -> None:
    store, edits = open_store(root), make_recipe(edits=[COMPOSED, {**SMILE, "request": "smile!"}]).edits
    Ask("f", "manifest/1", edits).record(store)
    (ask,) = read_asks(store)
    assert (ask.fingerprint, ask.manifest, ids(ask.edits)) == ("f", "manifest/1", ids(edits))


def test_one_ask_is_one_record_and_another_is_another(root: str) -> None:
    store = open_store(root)
    edits = make_recipe().edits
    spelt_out = make_recipe(edits=[{**SMILE, "request": "change to broad smile", "strengths": [1.0]}]).edits
    for ask in (Ask("f", "manifest/1", edits), Ask("f", "manifest/1", spelt_out)):
        ask.record(store)
    assert len(store.keys("asked")) == 1
    Ask("f", "manifest/2", edits).record(store)
    Ask("f", "manifest/1", ()).record(store)
    assert [key.startswith("asked/") for key in store.keys("")] == [True] * 3
    assert len(read_asks(store)) == 3
