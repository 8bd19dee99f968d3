"""A kill in a stage comes in the work that an attempt marker guards, so that the marker tells of it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import actors, sink, storage
from pipeline.actors import CaptionStage, EditStage
from pipeline.attempts import Attempts
from pipeline.decode import encode_png
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.stages import ScoreAndEncode
from pipeline.storage import Store
from pipeline.work import table_of_work
from tests.fakes import FakeEditor, fake_operations
from tests.faults import tripwire
from tests.faults.tripwire import Point, Tripwire, environment
from tests.pipeline.builders import make_recipe, work_row

POOL = PoolPlan(1, 1.0, 0.0, 1, "cpu")


@pytest.mark.parametrize("point", ["caption", "edit", "score"])
def test_a_kill_at_a_stage_leaves_its_marker(point: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in (
        (actors, "_captioned"), (EditStage, "_edited"), (ScoreAndEncode, "_scored"), (FakeEditor, "__call__"),
        (storage, "list_entries"), (storage, "read"), (storage, "write"), (storage, "delete"),
        (sink.EditSink, "__call__"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back what is armed
    for name, value in environment([Tripwire(point, "/007.png$")], tmp_path / "wires", tmp_path / "tally").items():
        monkeypatch.setenv(name, value)
    store = Store(str(tmp_path / "out"))
    standing: list[list[str]] = []
    monkeypatch.setattr(tripwire, "_kill", lambda _: standing.append(store.keys("attempts")))
    tripwire.arm()
    attempts, recipe = Attempts.start(store, 3), make_recipe()
    arguments = (fake_operations(), recipe, POOL, Progress(), attempts)
    image = np.full((32, 32, 3), 90, np.uint8)
    row = work_row(
        uri="/in/007.png", image=encode_png(image), source_sha256="s", seed=1, model_width=32, model_height=32
    )
    edited = EditStage(*arguments)(CaptionStage(*arguments)(table_of_work([row])))
    (scored,) = ScoreAndEncode(Progress(), attempts)(edited).to_pylist()
    assert [result["error_type"] for result in scored["results"]] == [None]
    ((marker,),) = standing
    assert marker.startswith(f"attempts/{point}/")
    assert store.keys("attempts") == []
