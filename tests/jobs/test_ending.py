"""How a job that ends before its work is done tells so."""

import pytest
import typer

from jobs.ending import ending_in_order
from pipeline.model_loading import ModelError
from pipeline.run_edit import ClusterError


@pytest.mark.parametrize(("error", "code"), [(ModelError("model: gone"), 2), (ClusterError("Ray: lost"), 1)])
def test_a_refusal_and_what_ray_ends_have_each_their_code_and_no_traceback(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, ending_in_order():
        raise error
    assert ended.value.exit_code == code
    told = capsys.readouterr().err
    assert str(error) in told and "Traceback" not in told
