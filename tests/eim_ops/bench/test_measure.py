import numpy as np
import pytest

from eim_ops.bench.cases import draw_cases, sources, truths
from eim_ops.bench.contenders import Edited
from eim_ops.bench.measure import measure
from eim_ops.faces.judge import load_judge

CASES = draw_cases(24, "independent", "test")
NONE = [None] * len(CASES)


def test_perfect_edits_score_full_and_no_edits_score_none() -> None:
    judge, before, wanted = load_judge(), sources(CASES), truths(CASES)
    perfect = measure(judge, CASES, Edited(1.0, wanted, 0.0, NONE, NONE), before, wanted)
    nothing = measure(judge, CASES, Edited(1.0, before, 0.0, NONE, NONE), before, wanted)
    figures = ("success", "kept", "on_target", "off_target", "psnr_true")
    mean = {name: [np.mean([row[name] for row in rows]) for rows in (perfect, nothing)] for name in figures}
    assert mean["success"][0] > 0.9 and mean["success"][1] == 0
    assert mean["kept"] == [pytest.approx(1.0, abs=0.01), 1.0]
    assert mean["on_target"][0] > 0.5 and mean["on_target"][1] == 0
    assert mean["off_target"][0] < 0.1 and mean["off_target"][1] == 0
    assert mean["psnr_true"][0] == 100 > mean["psnr_true"][1]
    assert all(len(row["changes"]) == 12 for row in perfect)


def test_going_the_other_way_counts_against() -> None:
    judge, before, wanted = load_judge(), sources(CASES), truths(CASES)
    backwards = measure(judge, CASES, Edited(1.0, before, 0.0, NONE, NONE), wanted, wanted)
    numbers = [row["on_target"] for row in backwards if row["kind"] == "continuous"]
    assert min(numbers) < 0 and np.mean(numbers) < 0.1
