"""A proxy before an S3 store that injects faults by rules, seeded, and counts them.

It passes the client's Host header on, which SigV4 signs. Every request is held against the rules in order; the first
rule that strikes decides. Whether a rule of some probability strikes depends on the seed, the operation, the key and
how often this key was asked for, not on the order in which clients come.
"""

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal
from xml.etree import ElementTree

import aiohttp
import yarl
from aiohttp import web

from tests.s3_server import S3Server

Fault = Literal["internal", "slow_down", "expired", "denied", "full", "reset", "truncate", "stall", "slow", "call"]
_ERRORS = {
    "internal": (500, "InternalError"),
    "slow_down": (503, "SlowDown"),
    "expired": (403, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "full": (507, "InsufficientStorage"),
}
_XML = "http://s3.amazonaws.com/doc/2006-03-01/"
_OWN_HEADERS = frozenset({"connection", "content-length", "date", "expect", "keep-alive", "transfer-encoding"})


@dataclass(frozen=True)
class Rule:
    """When a fault strikes. `truncate` and `reset` break an answer's body off; `slow` leaves a request's body on the
    line for a while; `call` runs before the forwarding."""

    fault: Fault
    operations: tuple[str, ...] = ("GET", "PUT", "LIST", "HEAD", "DELETE")
    key: str = ""
    """A regular expression, searched in `bucket/key`, for LIST in `bucket/prefix`."""
    probability: float = 1.0
    first: int | None = None
    """At most this often; None: without end."""
    after: int = 0
    """Requests that match and pass before the first strike."""
    seconds: float = 30.0
    """How long a stall or a slow body lasts."""
    call: Callable[[str], None] | None = None


@dataclass
class S3Proxy:
    """A running proxy. Rules may be changed at any time; changed rules begin to count anew."""

    server: S3Server
    upstream: str
    seed: int = 0
    rules: tuple[Rule, ...] = ()
    listing_lag: float = 0.0
    """Seconds for which a new object is in no listing."""
    struck: Counter[str] = field(default_factory=Counter)
    """How often each fault was injected."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests by operation."""
    born_at: dict[str, float] = field(default_factory=dict)
    """When each `bucket/key` was put first, by time.monotonic."""
    _matched: Counter[Rule] = field(default_factory=Counter)
    _done: Counter[Rule] = field(default_factory=Counter)
    _asked: Counter[tuple[str, str]] = field(default_factory=Counter)

    def set(self, *rules: Rule, listing_lag: float = 0.0) -> None:
        """From now on these faults and no others; counts begin at 0."""
        for counter in (self.struck, self.requests, self._matched, self._done, self._asked):
            counter.clear()
        self.rules, self.listing_lag = rules, listing_lag

    def strike(self, operation: str, key: str) -> Rule | None:
        """The rule that strikes this request, if any."""
        self.requests[operation] += 1
        self._asked[operation, key] += 1
        for rule in self.rules:
            if operation not in rule.operations or not re.search(rule.key, key):
                continue
            self._matched[rule] += 1
            chance = random.Random(f"{self.seed} {rule.fault} {operation} {key} {self._asked[operation, key]}").random()
            over = rule.first is not None and self._done[rule] >= rule.first
            if not over and self._matched[rule] > rule.after and chance < rule.probability:
                self._done[rule] += 1
                self.struck[rule.fault] += 1
                return rule
        return None

    def forget(self) -> None:
        """All that was put so far counts as old."""
        self.born_at.clear()

    def born(self, key: str) -> None:
        """A PUT of this key was answered."""
        self.born_at.setdefault(key, time.monotonic())

    def young(self, key: str) -> bool:
        """Whether the object is too new to be listed."""
        return key in self.born_at and time.monotonic() - self.born_at[key] < self.listing_lag

    def listing(self, bucket: str, body: bytes) -> bytes:
        """A listing as it looks to a store that lags."""
        if not self.listing_lag:
            return body
        ElementTree.register_namespace("", _XML)
        root = ElementTree.fromstring(body)
        tag = root.tag.removesuffix("ListBucketResult")
        for found in root.findall(f"{tag}Contents"):
            if self.young(f"{bucket}/{urllib.parse.unquote_plus(found.findtext(f'{tag}Key') or '')}"):
                root.remove(found)
                self.struck["unlisted"] += 1
        for found in root.findall(f"{tag}CommonPrefixes"):
            prefix = f"{bucket}/{urllib.parse.unquote_plus(found.findtext(f'{tag}Prefix') or '')}"
            below = [key for key in self.born_at if key.startswith(prefix)]
            if below and all(map(self.young, below)):
                root.remove(found)
        return ElementTree.tostring(root, xml_declaration=True, encoding="UTF-8")


def _named(request: web.BaseRequest) -> tuple[str, str]:
    """The operation, and what it is about."""
    path = urllib.parse.unquote(request.raw_path.partition("?")[0]).lstrip("/")
    if request.method == "GET" and "/" not in path.rstrip("/"):
        return "LIST", f"{path.rstrip('/')}/{request.query.get('prefix', '')}"
    return request.method, path


def _error(request: web.BaseRequest, fault: str) -> web.Response:
    status, code = _ERRORS[fault]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected {code}</Message></Error>"
    # Answers to HEAD have no body, so that nothing names the error.
    return web.Response(status=status, body=None if request.method == "HEAD" else body, content_type="application/xml")


async def _break_off(request: web.BaseRequest, answer: web.Response, fault: str) -> web.StreamResponse:
    """Announce the whole body, send half of it, and close (truncate) or reset the connection."""
    body = answer.body if isinstance(answer.body, bytes) else b""
    broken = web.StreamResponse(status=answer.status, headers={**answer.headers, "Content-Length": str(len(body) or 1)})
    transport = request.transport
    if request.method != "HEAD" and body:
        await broken.prepare(request)
        await broken.write(body[: len(body) // 2])
    if transport is not None:
        if fault == "reset":
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
    return broken


async def _answer(proxy: S3Proxy, session: aiohttp.ClientSession, request: web.BaseRequest) -> web.StreamResponse:
    operation, key = _named(request)
    rule = proxy.strike(operation, key)
    if rule is not None and rule.fault == "stall":
        await asyncio.sleep(rule.seconds)  # before `100 Continue`: the client still holds its body back
    if request.headers.get("Expect"):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    if rule is not None and rule.fault == "slow":
        await asyncio.sleep(rule.seconds)
    body = await request.content.read()  # `request.read` takes no more than a MiB
    if rule is not None:
        if rule.fault in _ERRORS:
            return _error(request, rule.fault)
        if rule.fault == "call" and rule.call is not None:
            await asyncio.to_thread(rule.call, key)
    headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
    url = yarl.URL(f"{proxy.upstream}{request.raw_path}", encoded=True)
    async with session.request(request.method, url, headers=headers, data=body or None) as reply:
        data = await reply.read()
        kept = {name: value for name, value in reply.headers.items() if name.lower() not in _OWN_HEADERS}
        if request.method == "HEAD":
            kept["Content-Length"] = reply.headers.get("Content-Length", "0")
        if reply.status == 200 and operation == "PUT":
            proxy.born(key)
        if reply.status == 200 and operation == "LIST":
            data = proxy.listing(key.partition("/")[0], data)
        answer = web.Response(status=reply.status, headers=kept, body=None if request.method == "HEAD" else data)
    return await _break_off(request, answer, rule.fault) if rule and rule.fault in ("truncate", "reset") else answer


async def _serve(proxy: S3Proxy, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept", "User-Agent"]) as session:
        runner = web.ServerRunner(web.Server(lambda request: _answer(proxy, session, request)), shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ready(runner.addresses[0][1])
        await stop.wait()
        await runner.cleanup()


@contextlib.contextmanager
def start(server: S3Server, seed: int = 0) -> Iterator[S3Proxy]:
    """Run a proxy before a store until the block ends, in a thread; at first it injects nothing."""
    proxy = S3Proxy(server, server.endpoint, seed)
    started = threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def ready(port: int) -> None:
        proxy.server = replace(server, endpoint=f"http://127.0.0.1:{port}")
        started.set()

    thread = threading.Thread(target=loop.run_until_complete, args=(_serve(proxy, ready, stop),), daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the proxy did not start within 10 s")
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
