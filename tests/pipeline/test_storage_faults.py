"""The store under fire: a fault is survived within its bound, or clearly refused; an object is whole or an error."""

import errno
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import botocore.exceptions
import pyarrow as pa
import pytest

from pipeline import retrying, storage, storage_metrics
from pipeline.attempts import Attempts
from pipeline.ledger import Ledger
from pipeline.listing import prepare_manifest
from pipeline.manifest import open_manifest
from pipeline.progress import Progress
from pipeline.recipe import Input
from pipeline.retrying import StorageError, UnansweredError
from pipeline.s3 import _answer, _client
from pipeline.stages import LoadRows
from pipeline.storage import Store
from pipeline.work import table_of_work
from tests.faults import s3_proxy
from tests.faults.s3_proxy import Rule, S3Proxy
from tests.pipeline.builders import square, start_job, work_row
from tests.s3_server import S3Server

DATA = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def shared_proxy(s3: S3Server) -> Iterator[S3Proxy]:
    with s3_proxy.start(s3) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.server.endpoint)
        yield proxy
        _client.cache_clear()


@pytest.fixture
def proxy(shared_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """The proxy without faults; pauses are nothing, a hanging store is given up soon."""
    monkeypatch.setattr(retrying, "wait_random_exponential", lambda **_: lambda _state: 0.0)
    monkeypatch.setattr("pipeline.s3._READ_SECONDS", 2.5)
    monkeypatch.setattr("pipeline.s3._CALL_SECONDS", 3.0)
    monkeypatch.setattr(retrying, "_LISTING_PAUSE", 0.02)
    _client.cache_clear()
    _client().connect()  # takes a while itself
    storage_metrics.untold()
    yield shared_proxy
    shared_proxy.set()


@pytest.fixture
def store(proxy: S3Proxy) -> Store:
    name = f"faults-{uuid.uuid4().hex}"
    proxy.server.make_bucket(name)
    proxy.set()
    return Store(f"s3://{name}/p")


def retries(operation: str) -> dict[str, int]:
    return {
        error: count
        for (name, its_operation, error), count in storage_metrics._untold.items()
        if (name, its_operation) == (storage_metrics.RETRIES, operation)
    }


@pytest.mark.parametrize("fault", ["internal", "slow_down", "reset", "truncate", "stall"])
def test_a_get_that_fails_a_few_times_gives_the_whole_object(
    fault: s3_proxy.Fault, store: Store, proxy: S3Proxy
) -> None:
    store.write("a", DATA)
    proxy.set(Rule(fault, ("GET",), first=3, seconds=5))
    assert store.read("a") == DATA
    assert (proxy.struck[fault], proxy.requests["GET"]) == (3, 4)
    assert sum(retries("get").values()) == 3


@pytest.mark.parametrize("fault", ["internal", "slow_down", "reset", "truncate", "stall"])
def test_puts_heads_lists_and_deletes_that_fail_a_few_times_are_done(
    fault: s3_proxy.Fault, store: Store, proxy: S3Proxy
) -> None:
    rules = [Rule(fault, (operation,), first=2, seconds=5) for operation in ("PUT", "HEAD", "LIST", "DELETE")]
    proxy.set(*rules)
    store.write("a", DATA)
    assert store.exists("a")
    assert store.keys("") == ["a"]
    assert store.read("a") == DATA
    store.delete("a")
    assert not store.exists("a")
    assert proxy.struck[fault] >= 6


def test_a_large_body_has_the_time_that_it_takes_on_a_slow_line(
    store: Store, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.s3._READ_SECONDS", 30)  # a loaded machine answers late; the body's time is held here
    _client.cache_clear()
    _client().connect()
    proxy.set()
    large = bytes(8 * 2**20)
    proxy.set(Rule("slow", ("PUT",), seconds=4))
    store.write("a", large)
    assert proxy.requests["PUT"] == 1
    assert store.read("a") == large


@pytest.mark.parametrize("fault", ["truncate", "reset"])
def test_a_body_that_always_breaks_off_is_never_taken_for_the_object(
    fault: s3_proxy.Fault, store: Store, proxy: S3Proxy
) -> None:
    store.write("a", DATA)
    proxy.set(Rule(fault, ("GET",)))
    with pytest.raises(UnansweredError, match=f"get {store.uri('a')}: failed 14 times"):
        store.read("a")
    assert proxy.requests["GET"] == retrying.ATTEMPTS


def test_a_body_that_ends_early_without_an_error_is_not_taken_either(
    store: Store, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a", DATA)

    async def longer(method: str, **arguments: object) -> dict[str, object]:
        found = await _answer(method, **arguments)
        return {**found, "ContentLength": len(DATA) + 1}

    monkeypatch.setattr("pipeline.s3._answer", longer)
    with pytest.raises(UnansweredError, match=f"{len(DATA)} bytes came, {len(DATA) + 1} were announced"):
        store.read("a")


def test_a_call_makes_no_more_requests_than_it_says(store: Store, proxy: S3Proxy) -> None:
    proxy.set(Rule("slow_down"))
    with pytest.raises(UnansweredError, match=r"put .* SlowDown: .*; run again"):
        store.write("a", DATA)
    assert proxy.requests["PUT"] == retrying.ATTEMPTS
    told = storage_metrics.untold()
    assert told[storage_metrics.RETRIES, "put", "SlowDown"] == retrying.ATTEMPTS - 1
    assert told[storage_metrics.ERRORS, "put", "SlowDown"] == 1


def test_pauses_grow_and_are_random() -> None:
    def pauses() -> list[float]:
        wait = retrying.wait_random_exponential(multiplier=0.5, max=retrying._LONGEST_PAUSE)
        state = retrying.RetryCallState(retrying.Retrying(), None, (), {})
        return [wait(state) for state.attempt_number in range(1, retrying.ATTEMPTS)]

    many = [pauses() for _ in range(50)]
    assert all(pause <= 0.5 * 2**number for one in many for number, pause in enumerate(one))
    assert max(one[-1] for one in many) > 5
    assert len({tuple(one) for one in many}) == 50


def test_a_stream_survives_what_a_read_survives(store: Store, proxy: S3Proxy) -> None:
    store.write("a", DATA)
    proxy.set(
        Rule("internal", ("GET",), first=2), Rule("truncate", ("GET",), first=1), Rule("slow_down", ("HEAD",), first=2)
    )
    with storage.open_stream(store.uri("a")) as stream:
        assert stream.read() == DATA


@pytest.mark.parametrize("operation", ["GET", "HEAD", "PUT", "LIST"])
def test_expired_credentials_end_with_the_mend_after_a_few_attempts(
    operation: str, store: Store, proxy: S3Proxy
) -> None:
    store.write("a", DATA)
    proxy.set(Rule("expired"))
    calls = {
        "GET": lambda: store.read("a"),
        "HEAD": lambda: store.exists("a"),
        "PUT": lambda: store.write("a", DATA),
        "LIST": lambda: store.keys(""),
    }
    with pytest.raises(
        StorageError, match=r"ExpiredToken.*refresh the S3 credentials and run the same command"
    ) as caught:
        calls[operation]()
    assert not isinstance(caught.value, UnansweredError)
    assert proxy.requests[operation] <= retrying.CREDENTIALS_ATTEMPTS


def test_credentials_that_come_back_are_used(store: Store, proxy: S3Proxy) -> None:
    proxy.set(Rule("expired", first=2))
    store.write("a", DATA)
    assert retries("put") == {"ExpiredToken": 2}


PROVIDER_FAULTS = [
    botocore.exceptions.CredentialRetrievalError(provider="container-role", error_msg="no answer"),
    botocore.exceptions.MetadataRetrievalError(error_msg="timed out"),
    botocore.exceptions.TokenRetrievalError(provider="sso", error_msg="gone"),
    botocore.exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
    RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "wait_random_exponential", lambda **_: lambda _state: 0.0)


def raising(error: Exception, calls: list[str], passes: int | None = None) -> Callable[[str], storage.Blob]:
    """A read that raises this, always or until so many calls have failed."""

    def read(uri: str) -> storage.Blob:
        calls.append(uri)
        if passes is None or len(calls) <= passes:
            raise error
        return storage.Blob(DATA, "v")

    return read


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("error", PROVIDER_FAULTS, ids=lambda error: type(error).__name__)
def test_credentials_that_cannot_be_had_end_the_job_rather_than_its_rows(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr("pipeline.s3.read", raising(error, calls))
    load = LoadRows(square(32), 0, Progress(), Attempts())
    with pytest.raises(StorageError, match="refresh the S3 credentials and run the same command") as caught:
        load(table_of_work([work_row(uri="s3://b/a.png")]))
    assert not isinstance(caught.value, UnansweredError)
    assert len(calls) == retrying.CREDENTIALS_ATTEMPTS
    monkeypatch.setattr("pipeline.s3.read", raising(error, [], passes=2))
    assert storage.read("s3://b/a.png").data == DATA


@pytest.mark.usefixtures("at_once")
def test_another_runtime_error_is_no_matter_of_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("pipeline.s3.read", raising(RuntimeError("a bug"), calls))
    with pytest.raises(RuntimeError, match="a bug"):
        storage.read("s3://b/a.png")
    assert len(calls) == 1


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL])
def test_names_that_no_disk_takes_are_tried_once(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("pipeline.disk.read", raising(OSError(number, os.strerror(number)), calls))
    with pytest.raises(OSError, match=os.strerror(number)):
        storage.read("/a")
    assert len(calls) == 1


def test_data_instead_of_a_place_is_a_problem_of_its_row_at_once(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"uri": f"data:image/png;base64,{'A' * 10_000}"}))
    manifest = prepare_manifest(Input(manifest=f"{tmp_path}/m.jsonl"), Store(f"{tmp_path}/out"))
    storage_metrics.untold()
    ((row,),) = (manifest.read(bucket) for bucket in manifest.rows)
    assert row["problem"].endswith(os.strerror(errno.ENAMETOOLONG))
    assert not storage_metrics.untold()


@pytest.mark.usefixtures("at_once")
def test_an_answer_of_s3_that_s3fs_gives_such_a_number_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = OSError(errno.EINVAL, "The Content-MD5 you specified did not match")
    damaged.__cause__ = botocore.exceptions.ClientError({"Error": {"Code": "BadDigest"}}, "PutObject")
    calls: list[str] = []
    monkeypatch.setattr("pipeline.s3.read", raising(damaged, calls, passes=2))
    assert storage.read("s3://b/a.png").data == DATA
    assert len(calls) == 3


def test_a_full_store_is_told_at_once(store: Store, proxy: S3Proxy) -> None:
    proxy.set(Rule("full", ("PUT",)))
    with pytest.raises(StorageError, match=f"put {store.uri('a')}: no space left, or a quota.*InsufficientStorage"):
        store.write("a", DATA)
    assert proxy.requests["PUT"] == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_at_once_and_leaves_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(_: int) -> None:
        calls.append(1)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left, or a quota is reached"):
        storage.write(str(tmp_path / "a"), DATA)
    assert (len(calls), list(tmp_path.iterdir())) == (1, [])


def lag_once(proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first listing that asks for them shows no new objects; the next ones show all."""
    monkeypatch.setattr(retrying, "_LISTING_PAUSE", 0.0)
    listing = S3Proxy.listing

    def once(self: S3Proxy, bucket: str, body: bytes) -> bytes:
        shown = listing(self, bucket, body)
        if self.struck["unlisted"]:
            self.listing_lag = 0.0
        return shown

    monkeypatch.setattr(S3Proxy, "listing", once)
    proxy.set(listing_lag=3600)


def test_a_listing_that_lags_is_read_again_until_a_manifest_is_whole(
    store: Store, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start_job(store.root, 4)
    lag_once(proxy, monkeypatch)
    assert len(job.samples) == 4
    assert proxy.struck["unlisted"] > 0


def test_a_manifest_that_stays_incomplete_is_an_error_not_a_smaller_one(store: Store, proxy: S3Proxy) -> None:
    job = start_job(store.root, 4)
    proxy.set(listing_lag=3600)
    with pytest.raises(StorageError, match="0 rows, but its index says"):
        open_manifest(job.output, job.manifest.prefix).read(min(job.manifest.rows))


def test_the_account_waits_for_rows_that_are_not_listed_yet(
    store: Store, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start_job(store.root, 2)
    proxy.forget()  # the listing is old, the rows are new
    job.write(job.samples)
    proxy.set(listing_lag=3600)
    ledger = Ledger(job.store, job.fingerprint)
    assert ledger.account(job.manifest, job.recipe.edits).left == 2
    lag_once(proxy, monkeypatch)
    assert ledger.settled_account(job.manifest, job.recipe.edits).left == 0


def test_a_part_that_stays_listed_though_it_is_gone_is_an_error_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "_LISTING_PAUSE", 0.0)
    store = Store(str(tmp_path))
    monkeypatch.setattr(Store, "keys", lambda self, prefix: [f"{prefix}/gone.parquet"])
    with pytest.raises(StorageError, match="names a part that is gone"):
        store.read_tables("t", pa.schema([("a", pa.int64())]), ["a"])


def test_storage_needs_no_ray() -> None:
    code = "import json, sys, pipeline.storage; print(json.dumps('ray' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


def test_a_bucket_that_is_not_there_is_told_with_the_place_and_the_mend(proxy: S3Proxy) -> None:
    nowhere = Store("s3://no-such-bucket/p")
    with pytest.raises(UnansweredError, match=r"put s3://no-such-bucket/p/a: NoSuchBucket.*check the bucket"):
        nowhere.write("a", b"")
    with pytest.raises(UnansweredError, match=r"list s3://no-such-bucket/p/: NoSuchBucket.*check the bucket"):
        nowhere.keys("")
    assert not nowhere.exists("a")


def test_a_refused_right_is_told_with_the_place_and_the_mend(store: Store, proxy: S3Proxy) -> None:
    proxy.set(Rule("denied", ("PUT",)))
    with pytest.raises(PermissionError, match=f"put: .*; give the S3 credentials this right: '{store.uri('a')}'"):
        store.write("a", b"")
    assert proxy.requests["PUT"] == 1
