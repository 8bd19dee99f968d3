"""One row of a manifest: an image, what is asked of it, or what is wrong with it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.identity import sample_id

MEND = "a text that is no UTF-8 cannot be stored; rename the file, or mend the row"

Row = dict[str, Any]


def manifest_row(
    uri: str,
    version: str = "",
    size: int | None = None,
    problem: str | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
    modified: float | None = None,
) -> Row:
    """A row of LISTING. version, size, modified: of the source's file, as the store tells them; given: what a user's
    manifest says of it. A uri or problem that is no UTF-8 is stored with escapes, and told as the row's problem."""
    if not is_utf8(uri):
        problem = problem or f"NotUtf8: {uri}: {MEND}"
        uri = printable(uri)
    return {
        "sample_id": sample_id(uri, version),
        "uri": uri,
        "version": version,
        "size": size,
        "source_prompt": given.get("source_prompt"),
        "target_prompts": given.get("target_prompts"),
        "edits": given.get("edits"),
        "fields": given.get("fields"),
        "problem": problem and printable(problem),
        "modified": modified,
    }


def is_utf8(text: str) -> bool:
    """Whether it can be written: file names and JSON's escapes can bring halves of characters."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def printable(text: str) -> str:
    """The text with such halves as escapes, so that different names stay different."""
    return text.encode(errors="backslashreplace").decode()
