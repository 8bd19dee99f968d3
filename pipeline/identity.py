"""Names of things: every key in storage is a function of what it stands for (see docs/guarantees.md)."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SHORT = 16


def _digest(parts: Iterable[str]) -> str:
    """sha256 of length-prefixed texts: no two different lists of texts give the same input."""
    encoded = [part.encode() for part in parts]
    return sha256_bytes(b"".join([piece for text in encoded for piece in (len(text).to_bytes(8, "big"), text)]))


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sample_id(uri: str, version: str) -> str:
    """The id of one version of one source image."""
    return _digest((uri, version))


def edit_id(
    attributes: Sequence[str],
    targets: Sequence[str],
    requests: Sequence[str],
    strength: float,
    prompts: Sequence[str | None] = (),
) -> str:
    """The id of one asked change; `prompts` are those that the manifest gives for the row (source, then targets)."""
    if not len(attributes) == len(targets) == len(requests):
        raise ValueError(f"{attributes}, {targets} and {requests} must be as many")
    # Adding 0.0 turns -0.0 into 0.0; repr of a float is its shortest exact form.
    parts = [str(len(attributes)), *attributes, *targets, *requests, repr(float(strength) + 0.0), str(len(prompts))]
    parts += [text for prompt in prompts for text in (("none",) if prompt is None else ("text", prompt))]
    return _digest(parts)


def canonical_json(value: Mapping[str, Any]) -> str:
    """One text for equal settings: sorted keys, no spaces; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """sha256 of the settings that change pixels."""
    return sha256_bytes(canonical_json(settings).encode())


def bucket_of(sample: str) -> str:
    """The bucket of a sample id: manifest, edits and failures share it."""
    return sample[:2]


def noise_seed(seed: int, source_sha256: str) -> int:
    """A 63-bit seed of the noise of one image: same bytes and same recipe seed, same noise.

    torch's CPU generator takes 32 bits of it, so among 77,000 images two are likely to share their noise: no harm.
    """
    return int(_digest((str(seed), source_sha256))[:_SHORT], 16) >> 1


def image_key(sample: str, edit: str, image_sha256: str) -> str:
    """Where an edited image lives, below the output."""
    return f"images/{sample}/{edit}.{image_sha256[:_SHORT]}.png"


_IMAGE_KEY = re.compile(r"images/([^/]+)/([^/.]+)\.([0-9a-f]{16})\.png")


def parse_image_key(key: str) -> tuple[str, str, str] | None:
    """The sample id, the edit id and the first 16 hex of the sha256 that `image_key` was given; None: no such key."""
    found = _IMAGE_KEY.fullmatch(key)
    return None if found is None else (found[1], found[2], found[3])


def part_key(kind: str, bucket: str, identities: Iterable[Sequence[str]]) -> str:
    """Where a Parquet part of `kind` lives; `identities` are its rows' identities, in any order."""
    ordered = sorted(tuple(identity) for identity in identities)
    flat = [text for identity in ordered for text in (str(len(identity)), *identity)]
    return f"{kind}/bucket={bucket}/part-{_digest(flat)}.parquet"


def unit_name(samples: Sequence[str]) -> str:
    """The name of the rows that a stage works on at a time: of one image its sample id."""
    return samples[0] if len(samples) == 1 else f"rows-{_digest(sorted(samples))}"


def attempt_name(stage: str, unit: str, run: str, process: str) -> tuple[str, str]:
    """The folder and the name of an attempt marker, below `attempts/`."""
    return stage, f"{unit}.{run}-{process}"
