"""Faults of rows, devices and models, put into every worker of a fake job; `FAULT` in the environment names one.

A row that is to blame is a white image: `poison.png`.
"""

import io
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FAULT, ONCE = "EIM_TEST_FAULT", "EIM_TEST_ONCE"
HOOK = "tests.faults.device_faults.install"
DARK = 80
"""Red of the first pixel, below which the fault `unlucky` strikes an image."""


def die() -> None:
    """As a crash in native code ends a process: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def _white(image: Any) -> bool:
    return bool(np.asarray(image).min() == 255)


def _before(owner: Any, name: str, check: Callable[..., None]) -> None:
    """Run `check` on the arguments before each call of `owner.name`."""
    real = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        check(*arguments)
        return real(*arguments, **options)

    setattr(owner, name, call)


def _load() -> None:
    from pipeline import stages

    real = stages.decode_image

    def decode(data: bytes) -> Any:
        image = real(data)
        if _white(image):
            die()
        return image

    stages.decode_image = decode


def _caption() -> None:
    from tests.fakes import FakeCaptioner

    _before(FakeCaptioner, "describe", lambda _, images: die() if any(map(_white, images)) else None)


def _edit() -> None:
    from tests.fakes import FakeEditor

    _before(FakeEditor, "__call__", lambda _, images, *rest: die() if any(map(_white, images)) else None)


def _encode() -> None:
    from tests.fakes import FakeEditor

    _before(FakeEditor, "encode", lambda _, images, *rest: die() if any(map(_white, images)) else None)


def _identify() -> None:
    """What an image was encoded to is its PNG."""
    from tests.fakes import FakeEditor

    def check(_: Any, encoded: Any, *rest: Any) -> None:
        if any(_white(Image.open(io.BytesIO(blob))) for blob in encoded):
            die()

    _before(FakeEditor, "identify", check)


def _score() -> None:
    from pipeline import stages

    _before(stages, "psnr", lambda pixels, source: die() if _white(source) else None)


def _write() -> None:
    from pipeline.sink import EditSink

    _before(EditSink, "_put_image", lambda _, image: die() if image.sample["uri"].endswith("poison.png") else None)


def _memory() -> None:
    """The device holds two rows, and none of the white image."""
    from tests.fakes import FakeEditor

    def check(_: Any, images: Any, prompts: Any, tasks: Any, seeds: Any, batch: int) -> None:
        if batch > 2 or any(map(_white, images)):
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory")

    _before(FakeEditor, "__call__", check)


def _device_lost(always: bool) -> None:
    """A device-side assertion: in the first call of the job, or in each with the white image."""
    from tests.fakes import FakeEditor

    def check(_: Any, images: Any, *rest: Any) -> None:
        once = Path(os.environ[ONCE])
        if any(map(_white, images)) if always else not once.exists():
            import torch

            once.touch()
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    _before(FakeEditor, "__call__", check)


def _stays_lost() -> None:
    """The same in an actor's fifth call, when it has edited a block of 16; then three loads fail."""
    from pipeline.cluster import RETRIES
    from tests.fakes import FakeEditor, FakeFactories

    once, calls = Path(os.environ[ONCE]), itertools.count()

    def call(*_: Any) -> None:
        if next(calls) == 4 and not once.exists():
            import torch

            once.touch()
            raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")

    def load(*_: Any) -> None:
        if once.exists() and once.stat().st_size < RETRIES:
            with once.open("a") as file:
                file.write("x")
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    _before(FakeEditor, "__call__", call)
    _before(FakeFactories, "editor", load)


def _unlucky() -> None:
    """Edits of dark images raise."""
    from tests.fakes import FakeEditor

    def check(_: Any, images: Any, *rest: Any) -> None:
        if any(np.asarray(image)[0, 0, 0] < DARK for image in images):
            raise RuntimeError("unlucky")

    _before(FakeEditor, "__call__", check)


def _model_kills() -> None:
    from tests.fakes import FakeFactories

    _before(FakeFactories, "editor", lambda *_: die())


FAULTS: dict[str, Callable[[], None]] = {
    "load": _load,
    "caption": _caption,
    "edit": _edit,
    "encode": _encode,
    "identify": _identify,
    "score": _score,
    "write": _write,
    "memory": _memory,
    "device-once": lambda: _device_lost(False),
    "device-always": lambda: _device_lost(True),
    "device-stays-lost": _stays_lost,
    "model-kills": _model_kills,
    "unlucky": _unlucky,
}


def install() -> None:
    """Ray's worker_process_setup_hook."""
    FAULTS[os.environ[FAULT]]()
