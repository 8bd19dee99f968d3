"""Captions kept in storage: one small object for each image and captioner, holding all its prompts.

An object is written whole, so that of racing writers the last wins with prompts that belong together. What it lacks
is asked for again: it is a cache and no ledger.
"""

import contextlib
from dataclasses import dataclass, field

from pydantic import BaseModel, ValidationError

from pipeline.retrying import UnansweredError
from pipeline.storage import Store

Request = tuple[str, str]
"""(source prompt, edit request)."""


class _Record(BaseModel):
    source_prompt: str | None
    targets: list[tuple[str, str, str]]


@dataclass
class Captions:
    """What is known of one image: its source prompt, and target prompts by request."""

    source_prompt: str | None = None
    targets: dict[Request, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CaptionCache:
    """The captions by one captioner. `prefix` covers what changes them: name, revision, instructions, image size."""

    store: Store
    prefix: str

    def _key(self, image_sha256: str) -> str:
        return f"{self.prefix}/{image_sha256[:2]}/{image_sha256}.json"

    def read(self, image_sha256: str) -> Captions:
        """What is known; nothing where there is no object, or one that cannot be read. Raises StorageError where the
        store refuses all work."""
        with contextlib.suppress(FileNotFoundError, PermissionError, UnansweredError, ValidationError):
            record = _Record.model_validate_json(self.store.read(self._key(image_sha256)))
            return Captions(record.source_prompt, {(source, request): to for source, request, to in record.targets})
        return Captions()

    def write(self, image_sha256: str, captions: Captions) -> None:
        """Put all that is known."""
        targets = [(source, request, to) for (source, request), to in sorted(captions.targets.items())]
        record = _Record(source_prompt=captions.source_prompt, targets=targets)
        self.store.write(self._key(image_sha256), record.model_dump_json().encode())
