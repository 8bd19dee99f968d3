"""Which errors of a store pass, how often a call is made again, and what is told of those that stay."""

import contextlib
import errno
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_base,
    retry_if_result,
    stop_after_attempt,
    wait_exponential,
    wait_random_exponential,
)

from pipeline import storage_metrics

_P = ParamSpec("_P")
_T = TypeVar("_T")

ATTEMPTS, _LONGEST_PAUSE = 14, 60
"""Three and a half minutes on average: a store that is started anew is waited for."""
CREDENTIALS_ATTEMPTS = 4
_LISTINGS, _LISTING_PAUSE = 6, 0.5
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_FINAL_NUMBERS = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})
_REFUSED_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_NO_BUCKET = frozenset({"NoSuchBucket", "InvalidBucketName"})
_STILL_EXPIRED = "credentials are still expired"
"""In the RuntimeError of botocore where a provider gave old ones."""
# Swift tells a full quota as EntityTooLarge; nothing that is written here is near S3's limit of 5 GiB.
_FULL = frozenset(
    {
        "507",
        "EntityTooLarge",
        "InsufficientStorage",
        "QuotaExceeded",
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
    }
)
_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})


class StorageError(Exception):
    """A place that cannot be used, with the mend."""


class UnansweredError(StorageError):
    """One object, or one listing, that could not be had: after all attempts, or since there can be none."""


def _of_s3(kind: str) -> tuple[type[BaseException], ...]:
    """The errors of a kind of `s3_errors.py`: none while nothing of S3 was touched."""
    if "botocore" not in sys.modules:
        return ()
    from pipeline import s3_errors

    found: tuple[type[BaseException], ...] = getattr(s3_errors, kind)
    return found


def _answered(error: BaseException) -> dict[str, Any] | None:
    """S3's own words, where it has answered."""
    response = getattr(error.__cause__, "response", None)
    return response["Error"] if isinstance(response, dict) else None


def code_of(error: BaseException) -> str:
    """What S3 calls an error (`SlowDown`), else the name of its type."""
    answer = _answered(error)
    return type(error).__name__ if answer is None else str(answer.get("Code"))


def _is_full(error: BaseException) -> bool:
    return code_of(error) in _FULL or (isinstance(error, OSError) and error.errno in _FULL_DISK)


def _is_refused(error: BaseException) -> bool:
    """Whether the credentials are, or none could be had from where they come from."""
    expired = isinstance(error, RuntimeError) and _STILL_EXPIRED in str(error)
    return expired or isinstance(error, _of_s3("NO_CREDENTIALS")) or code_of(error) in _REFUSED_CREDENTIALS


def _is_transient(error: BaseException) -> bool:
    # s3fs gives EINVAL to answers of S3 that may pass, such as one to a body that came damaged.
    final = isinstance(error, OSError) and error.errno in _FINAL_NUMBERS and _answered(error) is None
    return isinstance(error, (OSError, *_of_s3("TRANSIENT"))) and not isinstance(error, _FINAL) and not final


def _attempts(error: BaseException) -> int:
    """How often a call that fails so is made."""
    if _is_refused(error):
        return CREDENTIALS_ATTEMPTS  # botocore refreshes those that can be refreshed
    return 1 if _is_full(error) or not _is_transient(error) else ATTEMPTS


def _told(operation: str, uri: str, error: BaseException) -> BaseException:
    """The error to raise for one that came after the last attempt."""
    code, place = code_of(error), f"{operation} {uri}"
    if isinstance(error, _of_s3("NONE_SET")):
        return StorageError("no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if _is_refused(error):
        mend = "set the clock of this machine" if code == "RequestTimeTooSkewed" else "refresh the S3 credentials"
        return StorageError(f"{place}: {code}: {error}; {mend} and run the same command again: it does what is left")
    if _is_full(error):
        return StorageError(
            f"{place}: no space left, or a quota is reached ({code}: {error}); make room and run the same command "
            "again: it does what is left"
        )
    if _is_transient(error):
        return UnansweredError(f"{place}: failed {_attempts(error)} times, at last by {code}: {error}; run again")
    if code in _NO_BUCKET or isinstance(error, _of_s3("NO_NAME")):
        return UnansweredError(f"{place}: {code}: {' '.join(str(error).split())}; check the bucket and the name")
    if isinstance(error, PermissionError) and _answered(error) is not None:
        # S3 says no more than `Access Denied`.
        return PermissionError(errno.EACCES, f"{operation}: {error}; give the S3 credentials this right", uri)
    return error


def retried(operation: str, uri: str, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call, and again after errors that may pass, with growing random pauses.

    Raises FileNotFoundError and its kin as they are, names that no disk takes among them; UnansweredError after the
    last attempt; StorageError at once where the place is full, and after a few attempts where credentials are refused
    or cannot be had.
    """

    def error_of(state: RetryCallState) -> BaseException:
        error = state.outcome.exception() if state.outcome else None
        assert error is not None, "asked only after an attempt that failed"
        return error

    def last(state: RetryCallState) -> bool:
        return state.attempt_number >= _attempts(error_of(state))

    def note(state: RetryCallState) -> None:
        storage_metrics.count(storage_metrics.RETRIES, operation, code_of(error_of(state)))

    # A million calls are made and few fail: only these pay for the machinery.
    try:
        return call(*args, **kwargs)
    except Exception as error:
        failed = [error]

    def again() -> _T:
        if failed:
            raise failed.pop()
        return call(*args, **kwargs)

    # Random over the whole pause: many workers that were told to slow down must not come back together.
    pause = wait_random_exponential(multiplier=0.5, max=_LONGEST_PAUSE)
    try:
        return Retrying(stop=last, wait=pause, before_sleep=note, reraise=True)(again)
    except Exception as error:
        told = _told(operation, uri, error)
        if not isinstance(error, FileNotFoundError):
            storage_metrics.count(storage_metrics.ERRORS, operation, code_of(error))
        if told is error:
            raise
        raise told from error


@contextlib.contextmanager
def room_on(place: str) -> Iterator[None]:
    """While the block runs, a full disk is a StorageError that names the place; for what is not put by `retried`."""
    try:
        yield
    except OSError as error:
        if _is_full(error):
            raise _told("write to", place, error) from error
        raise


def relisting(again: retry_base, give_up: Callable[[RetryCallState], Any] | None = None) -> Retrying:
    """Calls what rests on a listing up to _LISTINGS times, for 15 seconds in all."""
    stop, pause = stop_after_attempt(_LISTINGS), wait_exponential(multiplier=_LISTING_PAUSE)
    return Retrying(stop=stop, wait=pause, retry=again, retry_error_callback=give_up, reraise=True)


def settled(read: Callable[[], _T], whole: Callable[[_T], bool]) -> _T:
    """What `read` gives, read again for a while if it is not whole: a listing may lag behind what was written."""
    latest: list[_T] = []

    def look() -> bool:
        latest[:] = [read()]
        return whole(latest[0])

    relisting(retry_if_result(lambda found: not found), lambda _: None)(look)
    return latest[0]
