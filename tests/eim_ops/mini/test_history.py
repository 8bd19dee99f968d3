from pathlib import Path

import torch

from eim_ops.mini.history import TrainingRun, read_history, training_run, write_history
from eim_ops.mini.loop import Schedule
from eim_ops.mini.shipped import shipped_path


def test_a_history_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    run = training_run(Schedule(steps=900, batch=16, lr=0.1), 4000, 90, torch.device("cpu"), steps=700)
    assert run == TrainingRun(700, 16, 4000, 1.5, "two CPU cores")
    write_history(tmp_path, [run, run])
    assert read_history(tmp_path) == [run, run]


def test_a_card_tells_every_run_of_the_shipped_model() -> None:
    folder = shipped_path("mini-dit")
    assert read_history(folder)
    assert all(str(run) in (folder / "README.md").read_text() for run in read_history(folder))
