import pytest
from typer.testing import CliRunner

from jobs.cli import app


@pytest.mark.parametrize("name", ["correlated", "nope"])
def test_an_unknown_report_is_refused_with_those_that_there_are(name: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", "bench", "--out", "unused", "--report", name])
    assert result.exit_code == 2
    assert name in result.output and "independent-truth" in result.output.replace("\n", "")
