"""Models in their actors: loaded once, or one clear error for the whole job where none of a stage can be."""

import atexit
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Protocol, TypeVar

import ray

from pipeline.attempts import Attempts
from pipeline.cluster import RETRIES
from pipeline.device import is_of_device, is_out_of_memory
from pipeline.operations import ModelFacts, Operations
from pipeline.progress import Progress
from pipeline.recipe import Recipe

_T = TypeVar("_T")


class _Pinned(Protocol):
    @property
    def revision(self) -> str: ...


_M = TypeVar("_M", bound=_Pinned | None)


class ModelError(Exception):
    """A model that cannot be loaded, with the mend."""


def held_to(operations: Operations, facts: ModelFacts) -> Operations:
    """The same operations, whose models must be those of `facts`: rows are written under these revisions, and a node
    may have other files by the same name. Its factories raise ModelError where it has."""
    return replace(
        operations,
        make_editor=partial(_checked, "model", facts.model_revision, operations.make_editor),
        make_captioner=partial(_checked, "captioner", facts.captioner_revision, operations.make_captioner),
    )


def _checked(key: str, revision: str, make: Callable[[Recipe, str], _M], recipe: Recipe, device: str) -> _M:
    made = make(recipe, device)
    # A captioner's may go on behind its weights: with what it is asked, and how.
    if made is not None and not f"{revision}+".startswith(f"{made.revision}+"):
        raise ModelError(
            f"{key}: {socket.gethostname()} has loaded the revision {made.revision}, this run is of {revision}\n  "
            "copy the same files to every node, or name a folder that all nodes share"
        )
    return made


def load_model(
    key: str, name: str, device: str, make: Callable[[], _T], stage: str, progress: Progress, attempts: Attempts
) -> _T | ModelError:
    """The model that `make` gives, or why there is none; `key` is the recipe's key that names it.

    An error is returned while no actor of the stage has loaded the model, since the next load would end alike: the
    actor raises it in its first call, which ends the job. Later it is the error of a node, such as a broken device. It
    ends the process then, as some loads do by themselves, and Ray starts it again with the rows that it had. After
    RETRIES of these an actor is given up: its constructor raises, which Ray Data bears RETRIES times in a row, until
    one loads.
    """
    actor = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
    if actor is not None:
        _end_without_teardown()
    unit = actor or "here"
    deaths = attempts.deaths(f"load-{key}", unit)
    with attempts.marked(f"load-{key}", (), unit):
        try:
            if deaths >= RETRIES:
                raise _Died(f"its process died {deaths} times while loading, as when memory runs out")
            made = make()
        except ModelError as error:
            return error
        except Exception as error:
            failed = ModelError(_text(key, name, device, error))
            if not progress.has_loaded(stage):
                return failed
            if deaths + 1 < RETRIES:
                print(failed, file=sys.stderr, flush=True)
                os._exit(1)  # its marker stays
            raise failed from None
    progress.loaded(stage)
    if deaths:
        attempts.forgive(f"load-{key}", unit)  # a long run may lose a node under each load of one actor
    return made


class _Died(Exception):
    """Loads that killed their processes."""


@cache
def _end_without_teardown() -> None:
    """When Ray has let go of this process, end it at once instead of unloading its libraries one by one.

    In that gRPC hangs now and then (Ray 2.60, about one of two hundred actors), and a process that hangs keeps the
    memory of its GPU from the next job.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    atexit.register(leave)


def usable(loaded: _T | ModelError, progress: Progress) -> _T:
    """The model; where there is none the driver is told why, and the stage's call ends the job."""
    if isinstance(loaded, ModelError):
        progress.refused(str(loaded))
        raise loaded
    return loaded


_MEMORY = "give it more memory: a smaller dtype (bfloat16), fewer actors (pools), or a larger device"
_FILES = "check that all its files are there and can be read, the *.safetensors too"
_DEVICE = (
    "look at it there (nvidia-smi): a node whose device is broken must leave the cluster, and torch must fit the driver"
)
_KIND = {
    "model": "it must be in the layout of diffusers and of a family that README.md lists, with its *.safetensors",
    "captioner": "it must be an image-text-to-text model of transformers, with its *.safetensors",
}


def _text(key: str, name: str, device: str, error: Exception) -> str:
    why = str(error) if isinstance(error, _Died) else f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    return f"{key}: {name!r} cannot be loaded on {device} of {socket.gethostname()}: {why}\n  {_mend(key, error)}"


def _mend(key: str, error: Exception) -> str:
    if isinstance(error, _Died) or is_out_of_memory(error):
        return _MEMORY
    if is_of_device(error):
        return _DEVICE
    return _FILES if isinstance(error, OSError) else _KIND[key]
