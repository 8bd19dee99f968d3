"""A captioner behind an OpenAI-compatible endpoint (`POST <url>/chat/completions`)."""

import asyncio
import base64
import email.utils
import io
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import httpx2
from PIL import Image
from pyrate_limiter import Limiter, Rate
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from eim_ops.captioning.base import all_or_refused
from eim_ops.captioning.instructions import GENERAL, Instructions

_T = TypeVar("_T")
_MINUTE_MS = 60_000
_MAX_PAUSE = 60.0
_TRANSIENT = frozenset({408, 409, 425, 429})
"""And every 5xx."""


class EndpointError(Exception):
    """The endpoint gave no answer, however often it was asked, or refused the question."""


class _Transient(EndpointError):
    """Worth another try, not before `pause` seconds."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True)
class HttpCaptioner:
    """Asks one question a row, at most `concurrency` at once and `requests_per_minute` by this captioner.

    `key_env` names the environment variable that holds the key; the key itself is in no field, message or row.
    Lost connections, answers that are not whole within `timeout_seconds` or are no chat completion, and the statuses
    408, 409, 425, 429 and 5xx are tried again, `attempts` in all, after the pause that Retry-After asks for, up to a
    minute. A completion that is cut at `max_tokens`, or holds no prompt, is refused at once.
    """

    url: str
    model: str
    revision: str
    key_env: str | None = None
    requests_per_minute: float = 600
    concurrency: int = 8
    timeout_seconds: float = 60
    attempts: int = 8
    max_tokens: int = 256
    instructions: Instructions = GENERAL

    @property
    def name(self) -> str:
        """The model's."""
        return self.model

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        """A source prompt of each RGB image."""
        text = {"type": "text", "text": self.instructions.describe}
        return self._answers([[{"type": "image_url", "image_url": {"url": _data_url(one)}}, text] for one in images])

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        """The target prompt of each (source prompt, edit request)."""
        pairs = zip(prompts, requests, strict=True)
        return self._answers([[{"type": "text", "text": self.instructions.ask_rewrite(*pair)}] for pair in pairs])

    def rewrite_again(
        self, prompts: Sequence[str], requests: Sequence[str], answers: Sequence[str], problems: Sequence[str]
    ) -> list[str]:
        """Other target prompts: the model is told the problems."""
        again = zip(prompts, requests, answers, problems, strict=True)
        return self._answers([[{"type": "text", "text": self.instructions.ask_again(*its)}] for its in again])

    def _answers(self, contents: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
        _ = self._limiter, self._loop, self._client  # here, and not by each thread for itself
        with ThreadPoolExecutor(self.concurrency) as threads:
            return all_or_refused(list(threads.map(_error_as_value(self._answer), contents)))

    def _answer(self, content: Sequence[Mapping[str, Any]]) -> str:
        question = {
            "model": self.model,
            "messages": [{"role": "user", "content": list(content)}],
            "temperature": 0,
            "seed": 0,
            "max_tokens": self.max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "prompt", "strict": True, "schema": self.instructions.schema},
            },
        }
        retrying = Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=_pause,
            retry=retry_if_exception_type(_Transient),
            reraise=True,
        )
        try:
            return retrying(self._ask, question)
        except _Transient as error:
            raise EndpointError(f"{self.url}: {error}; tried {self.attempts} times") from None

    def _ask(self, question: Mapping[str, Any]) -> str:
        self._limiter.try_acquire("question")
        try:
            answer = asyncio.run_coroutine_threadsafe(self._post(question), self._loop).result()
        except TimeoutError:
            raise _Transient(f"no whole answer within {self.timeout_seconds:g} s") from None
        except httpx2.TransportError as error:
            raise _Transient(f"{type(error).__name__}: {error}") from None
        if answer.status_code in _TRANSIENT or answer.status_code >= 500:
            raise _Transient(f"status {answer.status_code}", _retry_after(answer.headers.get("retry-after")))
        if answer.status_code != 200:
            raise EndpointError(f"{self.url}: status {answer.status_code}: {answer.text[:200]}{self._mend(answer)}")
        try:
            choice = answer.json()["choices"][0]
            text, finish = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, LookupError, TypeError):
            raise _Transient(f"the answer is no chat completion; it starts {answer.text[:80]!r}") from None
        if finish == "length":
            raise ValueError(f"captioner {self.model} did not end its answer within {self.max_tokens} tokens")
        if not isinstance(text, str):
            raise ValueError(f"captioner {self.model} gave no text (finish_reason {finish!r})")
        return self.instructions.read(text)

    def _mend(self, answer: httpx2.Response) -> str:
        if answer.status_code not in (401, 403):
            return ""
        return f"; set {self.key_env}" if self.key_env else "; name the key's environment variable as captioner.key_env"

    async def _post(self, question: Mapping[str, Any]) -> httpx2.Response:
        """Raises TimeoutError unless all of the answer is there in time. A client's own timeouts are for each read,
        which a server that drips meets for ever."""
        headers = self._headers()
        async with asyncio.timeout(self.timeout_seconds):
            return await self._client.post(f"{self.url.rstrip('/')}/chat/completions", json=question, headers=headers)

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key_env) if self.key_env else None
        if self.key_env and not key:
            raise EndpointError(f"the environment variable {self.key_env} (captioner.key_env) is not set on the worker")
        return {"Authorization": f"Bearer {key}"} if key else {}

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True, name="http captioner").start()
        return loop

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(timeout=None, limits=httpx2.Limits(max_connections=self.concurrency))

    @cached_property
    def _limiter(self) -> Limiter:
        # One at a time and evenly spaced: a whole minute's share at once is what endpoints refuse.
        return Limiter(Rate(1, max(1, round(_MINUTE_MS / self.requests_per_minute))))


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.pause if isinstance(error, _Transient) else 0.0
    return min(_MAX_PAUSE, max(asked, wait_random_exponential(multiplier=0.5, max=_MAX_PAUSE)(state)))


def _retry_after(header: str | None) -> float:
    """Seconds, from a number or a date; 0 where there is neither."""
    if header is None:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def _error_as_value(call: Callable[[_T], str]) -> Callable[[_T], str | Exception]:
    def called(item: _T) -> str | Exception:
        try:
            return call(item)
        except Exception as error:
            return error

    return called


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
