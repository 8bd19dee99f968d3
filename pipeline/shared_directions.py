"""Shared directions of a run in storage: which there are, and where their artifacts lie."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.identity import canonical_json, sha256_bytes
from pipeline.storage import Store

_FOLDER = "directions"
ARTIFACT = ("direction.safetensors", "direction.json")
"""The files of one, as `eim_ops/identify/shared.py` writes them."""

Wanted = tuple[str, str, str]
"""(attribute, target, request): what a direction is identified for; another request leads to other target prompts."""


@dataclass(frozen=True)
class SharedDirections:
    """The ids of a run's shared directions; it travels to the workers."""

    store: Store
    ids: Mapping[Wanted, str]

    @classmethod
    def read(cls, store: Store, wanted: list[Wanted]) -> "SharedDirections":
        """Those of the wanted that are recorded."""
        found = {each: store.read_json(key)["id"] for each in wanted if store.exists(key := _record(each))}
        return cls(store, found)

    def add(self, wanted: Wanted, folder: Path) -> None:
        """Put the artifact in `folder`, named by its id, and then its record."""
        for file in ARTIFACT:
            self.store.write(f"{_FOLDER}/{folder.name}/{file}", (folder / file).read_bytes())
        attribute, target, request = wanted
        record = {"attribute": attribute, "target": target, "request": request, "id": folder.name}
        self.store.write(_record(wanted), canonical_json(record).encode())

    def fetch(self, folder: Path) -> Iterator[Path]:
        """Each artifact once, copied below a local folder."""
        for name in sorted(set(self.ids.values())):
            (folder / name).mkdir()
            for file in ARTIFACT:
                (folder / name / file).write_bytes(self.store.read(f"{_FOLDER}/{name}/{file}"))
            yield folder / name


def _record(wanted: Wanted) -> str:
    name = sha256_bytes("\0".join(wanted).encode())[:16]
    return f"{_FOLDER}/{name}.json"
