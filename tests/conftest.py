"""Fixtures that many tests share."""

import gc
import os
import signal
import time
import uuid

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share few cores
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so xdist starts its processes, and theirs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from tests import s3_server

settings.register_profile("shared machine", deadline=None, max_examples=50)
settings.load_profile("shared machine")


DEADLINE = "EIM_TEST_DEADLINE"
"""The environment variable with seconds since 1970, from which on slow tests are skipped: for a machine that ends a run
that takes too long, and with it all that would have been told."""


_LONGEST = ("tests/e2e", "tests/eim_ops")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: at the end of a run in several processes only short ones are left."""
    items.sort(key=lambda item: next((i for i, name in enumerate(_LONGEST) if item.nodeid.startswith(name)), 9))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is slow after the deadline, if there is one."""
    if item.get_closest_marker("slow") and time.time() > float(os.environ.get(DEADLINE, "inf")):
        pytest.skip(f"slow, and {DEADLINE} is over")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    """A real S3 store; its endpoint and keys are in the environment for the session."""
    with s3_server.start(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place on disk, and another on S3, for one test body."""
    if request.param == "local":
        return str(tmp_path)
    name = f"test-{uuid.uuid4().hex}"
    request.getfixturevalue("s3").make_bucket(name)
    return f"s3://{name}/some prefix"


@pytest.fixture(scope="session")
def ray_two_cpus(s3: s3_server.S3Server) -> Iterator[None]:
    """A local Ray of two CPUs, whose workers know the S3 store."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def ray_for_drivers(ray_two_cpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers that scenarios start join the local Ray instead of starting their own."""
    import ray

    from tests.faults.driver import SHARED

    gc.collect()  # a stream that ended by an error keeps the CPUs of its actors until then
    monkeypatch.setenv(SHARED, ray.get_runtime_context().gcs_address)


PngMaker = Callable[[int], bytes]


@pytest.fixture(scope="session")
def png() -> PngMaker:
    """Bytes of a 40 x 36 PNG for each seed."""
    from pipeline.decode import encode_png

    def make(seed: int) -> bytes:
        coarse = Image.fromarray(np.random.default_rng(seed).integers(40, 200, (4, 4, 3), np.uint8))
        return encode_png(np.asarray(coarse.resize((40, 36))))

    return make
