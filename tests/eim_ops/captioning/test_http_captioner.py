"""The HTTP captioner against a real server on loopback that misbehaves as it is told."""

import contextlib
import email.utils
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from eim_ops.captioning.base import Refused
from eim_ops.captioning.http import EndpointError, HttpCaptioner

IMAGE = Image.new("RGB", (8, 8))


def said(text: str, finish: str = "stop") -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}]}).encode()


GOOD = said('{"prompt": "a face"}')


@dataclass
class Server:
    """Plays `script`, one (behaviour, data) for each request, then answers well; notes what came and when."""

    url: str = ""
    script: list[tuple[str, Any]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.times.append(time.monotonic())
                state.bodies.append(body)
                state.keys.append(self.headers["Authorization"])
                kind, data = state.script.pop(0) if state.script else ("say", GOOD)
                state.open += 1
                state.most_open = max(state.most_open, state.open)
            try:
                self._play(kind, data)
            finally:
                with state.lock:
                    state.open -= 1

        def _play(self, kind: str, data: Any) -> None:
            if kind == "reset":
                self.connection.close()
                return
            if kind == "drip":
                self._drip(data)
                return
            if kind == "slow":
                time.sleep(data)
            status, header, text = data if kind == "status" else (200, {}, GOOD if kind == "slow" else data)
            try:
                self.send_response(status)
                for name, value in header.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:  # the client has gone, as a timeout makes it
                self.close_connection = True

        def _drip(self, text: bytes) -> None:
            """A byte now and then, soon enough for a timeout of each read, for as long as the client listens."""
            self.close_connection = True
            with contextlib.suppress(OSError):
                for byte in text:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def captioner(server: Server, **changes: Any) -> HttpCaptioner:
    return HttpCaptioner(**{"url": server.url, "model": "m", "revision": "1", "requests_per_minute": 60_000, **changes})


def test_an_image_is_asked_about_with_a_schema_and_without_chance(server: Server) -> None:
    assert captioner(server).describe([IMAGE]) == ["a face"]
    (body,) = server.bodies
    image, text = body["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert "JSON" in text["text"]
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["prompt"]
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert server.keys == [None]


def test_the_key_comes_from_the_environment_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = captioner(server, key_env="EIM_TEST_KEY")
    with pytest.raises(Refused, match=r"EIM_TEST_KEY .* is not set"):
        keyed.rewrite(["a"], ["b"])
    monkeypatch.setenv("EIM_TEST_KEY", "s3cret")
    server.script = [("say", GOOD), ("status", (401, {}, b"no"))]
    keyed.rewrite(["a"], ["b"])
    with pytest.raises(Refused, match="status 401: no; set EIM_TEST_KEY") as caught:
        keyed.rewrite(["a"], ["b"])
    assert server.keys == ["Bearer s3cret"] * 2
    assert "s3cret" not in str(caught.value) + repr(keyed)


@pytest.mark.parametrize(
    "trouble",
    [
        ("status", (500, {}, b"oops")),
        ("status", (503, {}, b"")),
        ("reset", None),
        ("slow", 0.6),
        ("drip", b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 400),
        ("drip", b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + b" " * 400),
        ("say", GOOD[:-9]),  # cut JSON
        ("say", b'{"error": "busy"}'),
    ],
)
def test_passing_trouble_is_tried_again(server: Server, trouble: tuple[str, Any]) -> None:
    server.script = [trouble]
    assert captioner(server, timeout_seconds=0.3).describe([IMAGE]) == ["a face"]
    assert len(server.bodies) == 2
    assert server.times[1] - server.times[0] < 5


def test_an_answer_that_drips_for_ever_is_given_up_with_its_reason(server: Server) -> None:
    server.script = [("drip", b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + b" " * 400)] * 2
    started = time.monotonic()
    with pytest.raises(Refused, match=r"no whole answer within 0\.3 s; tried 2 times"):
        captioner(server, timeout_seconds=0.3, attempts=2).describe([IMAGE])
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(server: Server, form: str) -> None:
    date = email.utils.formatdate(time.time() + 2, usegmt=True)  # in whole seconds, so 1 to 2 away
    server.script = [("status", (429, {"Retry-After": "1" if form == "seconds" else date}, b""))]
    captioner(server).describe([IMAGE])
    assert 0.9 <= server.times[1] - server.times[0] < 5


@pytest.mark.parametrize("form", ["soon", "Wed, 21 Oct 2015 07:28:00 GMT", "-3"])
def test_a_retry_after_that_says_nothing_or_is_past_is_no_pause(server: Server, form: str) -> None:
    server.script = [("status", (429, {"Retry-After": form}, b""))]
    assert captioner(server).describe([IMAGE]) == ["a face"]
    assert server.times[1] - server.times[0] < 1


def test_trouble_that_stays_is_an_error_with_its_reason(server: Server) -> None:
    server.script = [("status", (500, {}, b""))] * 2
    with pytest.raises(Refused) as caught:
        captioner(server, attempts=2).describe([IMAGE])
    (error,) = caught.value.answers
    assert isinstance(error, EndpointError)
    assert f"{server.url}: status 500; tried 2 times" in str(error)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (said('{"caption": "a face"}'), "no text of 1 to 1000 characters under 'prompt'"),
        (said('{"prompt": 3}'), "no text of 1 to 1000"),
        (said('{"prompt": "a fa'), "no whole JSON object"),
        (said('{"prompt": "a fa', "length"), "did not end its answer"),
    ],
)
def test_an_answer_of_another_form_is_refused_at_once(server: Server, answer: bytes, problem: str) -> None:
    server.script = [("say", answer)]
    with pytest.raises(Refused, match=problem):
        captioner(server).describe([IMAGE])
    assert len(server.bodies) == 1


def test_good_answers_of_a_batch_are_kept_in_order(server: Server) -> None:
    server.script = [("say", said('{"prompt": "a"}')), ("status", (400, {}, b"no")), ("say", said('{"prompt": "c"}'))]
    with pytest.raises(Refused) as caught:
        captioner(server, concurrency=1).rewrite(["a", "b", "c"], ["x"] * 3)
    first, second, third = caught.value.answers
    assert (first, third) == ("a", "c")
    assert "status 400" in str(second)


def test_questions_at_once_are_bounded_and_spaced(server: Server) -> None:
    server.script = [("slow", 0.05)] * 8
    captioner(server, concurrency=3, timeout_seconds=5).rewrite(["a"] * 8, ["b"] * 8)
    assert 1 < server.most_open <= 3
    server.times.clear()
    captioner(server, requests_per_minute=600).rewrite(["a"] * 4, ["b"] * 4)
    assert server.times[-1] - server.times[0] >= 0.27


def test_a_refused_answer_is_told_with_its_problem(server: Server) -> None:
    captioner(server).rewrite_again(["a face"] * 2, ["smile"] * 2, ["a dog", "a cat"], ["it changes too much"] * 2)
    texts = [body["messages"][0]["content"][0]["text"] for body in server.bodies]
    assert sorted("'a dog'" in text for text in texts) == sorted("'a cat'" in text for text in texts) == [False, True]
    assert all("it changes too much" in text for text in texts)
