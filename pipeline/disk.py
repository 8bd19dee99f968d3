"""Objects that are files of a disk, by absolute path. Errors are the operating system's own."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import IO

from pipeline.objects import Blob, Entry
from pipeline.retrying import retried

_PARTIAL = ".partial"


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _entry(path: str, found: os.stat_result) -> Entry:
    return Entry(path, _version(found), found.st_size, found.st_mtime)


def read(path: str) -> Blob:
    """A file's bytes and version; a version that no listing knows where the file is written over meanwhile."""
    with open(path, "rb") as file:
        before = _version(os.fstat(file.fileno()))
        data = file.read()
        after = _version(os.fstat(file.fileno()))
        return Blob(data, before if before == after else f"{before}, while it was read {after}")


def stat(path: str) -> Entry:
    """Version and size of a file."""
    found = os.stat(path)
    if not S_ISREG(found.st_mode):
        raise IsADirectoryError(f"{path} is not a file")
    return _entry(path, found)


def write(path: str, data: bytes) -> None:
    """Put a file whole or not at all, with the folders above it."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{name[:40]}.", suffix=_PARTIAL, dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
            # A name that outlives a power cut must not outlive its bytes.
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def delete(path: str) -> None:
    """Remove a file. Its folder stays, even empty: a writer may be about to put something there."""
    os.unlink(path)


def open_stream(path: str) -> IO[bytes]:
    """A readable, seekable stream."""
    return open(path, "rb")


def _scan(folder: str, beginning: str) -> tuple[list[str], set[str]]:
    """The names in a folder that begin so, in order, and which of them are folders."""
    names, folders_among = [], set()
    with os.scandir(folder) as scan:
        for entry in scan:
            if entry.name.startswith(beginning):
                names.append(entry.name)  # an entry takes ten times as much, and there may be very many
                if _is_folder(entry):
                    folders_among.add(entry.name)
    return sorted(names), folders_among


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def list_names(folder: str, beginning: str = "") -> Iterator[str]:
    """The paths of all that is no folder, in order of their names, without asking what they are."""
    return _walk(folder, beginning, ())


def _walk(folder: str, beginning: str, above: tuple[str, ...]) -> Iterator[str]:
    """above: the folders that are being listed."""
    above = (*above, folder)
    try:
        names, folders_among = retried("list", folder, _scan, folder, beginning)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        path = os.path.join(folder, name)
        if name in folders_among:
            if not (os.path.islink(path) and _leads_back(path, above)):
                yield from _walk(path, "", above)
        elif not (name.startswith(".") and name.endswith(_PARTIAL)):
            yield path


def list_entries(folder: str, beginning: str) -> Iterator[Entry]:
    """All files below a folder, in order of their names; with `beginning`, of what is named so directly below it."""
    for path in list_names(folder, beginning):
        try:
            found = retried("head", path, os.stat, path)
        except OSError as error:
            # A link that leads nowhere or to itself, or what went meanwhile.
            if not isinstance(error, FileNotFoundError) and error.errno != errno.ELOOP:
                raise
            continue
        if S_ISREG(found.st_mode):
            yield _entry(path, found)


def _leads_back(link: str, above: tuple[str, ...]) -> bool:
    """Whether a link leads to a folder that is being listed."""
    return os.path.realpath(link) in map(os.path.realpath, above)


def folders(folder: str, beginning: str) -> list[str]:
    """The names of the folders directly below a folder that begin so, in order."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as scan:
        return sorted(entry.name for entry in scan if entry.name.startswith(beginning) and _is_folder(entry))
    return []


def stream_folders(folder: str) -> Iterator[str]:
    """The names of the folders directly below a folder, one after the other, in no order."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as scan:
        yield from (entry.name for entry in scan if _is_folder(entry))
