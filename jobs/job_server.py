"""Ray's job server as seen from outside the cluster: reach it, follow a job to its end, tell its exit code."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from jobs.submission import ASK, OUTPUT, Submission

_CONNECT_SECONDS, _ANSWER_SECONDS = 5, 60
_SILENCE_SECONDS = 60.0
"""A stream of the log that brings nothing for so long may be dead, and is opened anew."""
_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 1.0
_STOPPED = 128 + signal.SIGTERM
"""What a stopped job's exit code would be; Ray does not keep it."""


class JobServerError(Exception):
    """The job server cannot be reached or refuses; its text is for people."""


class TokenError(JobServerError):
    """The job server does not take the token, or asks for one: waiting does not mend it."""


class _Client(JobSubmissionClient):
    """Ray's own waits for an answer without end."""

    def _do_request(self, *arguments: Any, **options: Any) -> requests.Response:
        return super()._do_request(*arguments, timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS), **options)


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at an http(s) address. Raises JobServerError."""
    if not address.startswith(("http://", "https://")):
        raise JobServerError(
            f"--address: given {shown(address)!r}; give the job server's, which is the dashboard's: http://HEAD:8265"
        )
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # which Ray takes before its argument, as it does RAY_ADDRESS
    try:
        with _told(address):
            return _Client(address)
    except _Other as error:
        raise JobServerError(f"what answers at {shown(address)} is no job server of Ray's: {error}") from None


def find_running(client: JobSubmissionClient, submission: Submission) -> str | None:
    """The job that does already what is asked. Raises JobServerError where one with another ask writes to the output:
    two would make the same edits twice."""
    with _told(client.get_address()):
        jobs = client.list_jobs()
    for job in jobs:
        metadata = job.metadata or {}
        if job.status.is_terminal() or metadata.get(OUTPUT) != submission.metadata[OUTPUT]:
            continue
        if metadata.get(ASK) == submission.metadata[ASK]:
            return job.submission_id
        raise JobServerError(
            f"job {job.submission_id} writes to {submission.metadata[OUTPUT]} by another recipe or with other options; "
            f"let it end, or stop it: {stop_line(client, job.submission_id)}"
        )
    return None


def send(client: JobSubmissionClient, submission: Submission) -> None:
    """Upload and start. Raises JobServerError."""
    with _told(client.get_address()):
        client.submit_job(
            submission_id=submission.submission_id,
            entrypoint=submission.entrypoint,
            runtime_env=dict(submission.runtime_env),
            metadata=dict(submission.metadata),
        )


def follow(client: JobSubmissionClient, job: str, show: Callable[[str], None]) -> JobDetails:
    """Show a job's log as it is written, from its beginning, until the job has ended.

    A stream that ends says nothing of the job (proxies close those that are silent): it is opened anew, and what was
    shown is not shown again. A server that does not answer, or answers with an error as an ingress does while its head
    restarts, is waited for. Raises TokenError at once, and JobServerError where nothing else comes for two minutes.
    """
    log, heard = _Log(show), time.monotonic()
    while True:
        # What is wrong with the server, the next question tells.
        with contextlib.suppress(aiohttp.ClientError, RuntimeError, OSError):
            asyncio.run(_tail(client, job, log))
        try:
            with _told(client.get_address()):
                found = client.get_job_info(job)
        except TokenError:
            raise
        except JobServerError as error:
            if time.monotonic() - heard > _PATIENCE_SECONDS:
                raise JobServerError(f"{error}; job {job} may go on, the same command follows it") from None
        else:
            heard = time.monotonic()
            if found.status.is_terminal():
                with contextlib.suppress(RuntimeError, OSError):
                    log.begin()
                    log.add(client.get_job_logs(job))
                return found
        time.sleep(_PAUSE_SECONDS)


def exit_code(job: JobDetails) -> int:
    """That of an ended job's own process, as a shell tells it; 1 where it never ran."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return _STOPPED
    code = job.driver_exit_code
    if not code:
        return 1
    return 128 - code if code < 0 else code


def shown(address: str) -> str:
    """An address as it may be printed: without the password that it may hold."""
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:***@", address)


def stop_line(client: JobSubmissionClient, job: str) -> str:
    """The command that stops a job."""
    return f"ray job stop {job} --address {shown(client.get_address())}"


class _Log:
    """Shows a log that is read from its beginning several times, each character once."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._shown, self._read = show, 0, 0

    def begin(self) -> None:
        self._read = 0

    def add(self, text: str) -> None:
        new = text[max(0, self._shown - self._read) :]
        self._read += len(text)
        self._shown = max(self._shown, self._read)
        if new:
            self._show(new)


async def _tail(client: JobSubmissionClient, job: str, log: _Log) -> None:
    log.begin()
    stream = client.tail_job_logs(job)
    try:
        while True:
            # `wait_for` of Python 3.11 loses a Ctrl-C that comes with the next text.
            async with asyncio.timeout(_SILENCE_SECONDS):
                text = await anext(stream)
            log.add(text)
    except (StopAsyncIteration, TimeoutError):
        return
    finally:
        await stream.aclose()


class _Other(JobServerError):
    """An answer that Ray's client does not take."""


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """Raise what Ray's client raises as JobServerError with the mend."""
    address = shown(address)
    try:
        yield
    except AuthenticationError as error:
        raise TokenError(
            f"{address}: {_token_problem(str(error))}; set RAY_AUTH_MODE=token, and the cluster's own token in "
            "RAY_AUTH_TOKEN, or its file in RAY_AUTH_TOKEN_PATH"
        ) from None
    except (ConnectionError, requests.ConnectionError, requests.Timeout):
        raise JobServerError(
            f"no job server answers at {address}; is the cluster up, and its port 8265 forwarded "
            "(kubectl -n eim port-forward svc/eim-head-svc 8265, or ray dashboard CLUSTER.yaml)?"
        ) from None
    except (requests.RequestException, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _Other(f"{address}: {type(error).__name__}: {error}") from None


def _token_problem(said: str) -> str:
    if said.startswith("Authentication required"):
        return "it asks for Ray's token, and none was given"
    if said.startswith("Authentication failed"):
        return "it does not take this token"
    return f"cannot read Ray's token: {said.partition('. ')[0]}"
