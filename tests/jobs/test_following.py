"""Following a job while its stream breaks, falls silent or its server is gone; with a fake of Ray's client."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from jobs import job_server
from jobs.job_server import JobServerError, TokenError, follow

LOG = "one\ntwo\nthree\n"
BREAK, SILENCE = "break", "silence"


@dataclass
class Answer:
    status: JobStatus
    driver_exit_code: int | None = 0


@dataclass
class FakeClient:
    """Streams its log's beginnings, each until something happens; then each state once, the last one for good."""

    streams: list[tuple[str, str]]
    states: list[JobStatus | Exception]
    tails: int = 0

    def get_address(self) -> str:
        return "http://head:8265"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        text, end = self.streams[min(self.tails, len(self.streams) - 1)]
        self.tails += 1
        for line in text.splitlines(keepends=True):
            yield line
        if end == BREAK:
            raise RuntimeError("WebSocket connection closed unexpectedly")
        if end == SILENCE:
            await asyncio.sleep(3600)

    def get_job_info(self, job: str) -> Answer:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return Answer(state)

    def get_job_logs(self, job: str) -> str:
        return LOG


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(job_server, "_SILENCE_SECONDS", 0.5)


def followed(client: Any) -> tuple[str, Any]:
    shown: list[str] = []
    ended = follow(client, "eim-1", shown.append)
    return "".join(shown), ended


@pytest.mark.parametrize("end", ["", BREAK, SILENCE])
def test_a_stream_that_ends_before_the_job_is_opened_anew_and_nothing_is_shown_twice(end: str) -> None:
    client = FakeClient([("one\n", end), ("one\ntwo\n", end), (LOG, "")], [JobStatus.RUNNING] * 2 + [JobStatus.FAILED])
    shown, ended = followed(client)
    assert (shown, ended.status, client.tails) == (LOG, JobStatus.FAILED, 3)


def test_the_rest_of_the_log_is_fetched_where_the_last_stream_broke() -> None:
    shown, _ = followed(FakeClient([("one\n", BREAK)], [JobStatus.SUCCEEDED]))
    assert shown == LOG


def test_a_server_that_is_gone_for_a_while_is_waited_for() -> None:
    gone = ConnectionError("refused")
    client = FakeClient([("one\n", BREAK), (LOG, "")], [gone, gone, JobStatus.SUCCEEDED])
    assert followed(client)[0] == LOG


def test_a_server_that_answers_with_errors_for_a_while_is_waited_for() -> None:
    # As Ray's client tells of an ingress without a head behind it, and of one that answers with a page of its own.
    passing = [RuntimeError("Request failed with status code 503"), ValueError("no JSON"), KeyError("status")]
    client = FakeClient([("one\n", BREAK), (LOG, "")], [*passing, JobStatus.SUCCEEDED])
    shown, ended = followed(client)
    assert (shown, ended.status) == (LOG, JobStatus.SUCCEEDED)


def test_errors_that_stay_end_the_command_and_tell_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(JobServerError, match=r"status code 503; job eim-1 may go on, the same command"):
        followed(FakeClient([("one\n", BREAK)], [RuntimeError("Request failed with status code 503")]))


def test_a_token_that_is_refused_ends_the_command_at_once() -> None:
    states: list[JobStatus | Exception] = [AuthenticationError("Authentication failed"), JobStatus.SUCCEEDED]
    with pytest.raises(TokenError, match="does not take this token"):
        followed(FakeClient([("one\n", BREAK)], states))


def test_a_server_that_stays_away_is_an_error_that_tells_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(JobServerError, match=r"no job server answers at .*; job eim-1 may go on, the same command"):
        followed(FakeClient([("one\n", BREAK)], [ConnectionError("refused")]))


def test_ctrl_c_is_heard_while_more_of_the_log_is_there_already() -> None:
    def interrupt(_: str) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)  # let the handler run here, as it does while a line is printed

    client = FakeClient([(LOG, SILENCE)], [JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.SUCCEEDED])
    calls = iter([interrupt])
    with pytest.raises(KeyboardInterrupt):
        follow(client, "eim-1", lambda text: next(calls, str)(text))  # type: ignore[arg-type]
    assert client.tails == 1
