"""What failed is tried again after a pause, while its failure may pass: every request goes through here.

A failure is named by its kind alone: what a library says may hold an address with a token.
"""

import email.utils
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from streamgan.core.counters import Counters
from streamgan.core.errors import DataError, StreamganError

from .address import redacted

RETRY_DELAYS_S = (0.2, 1.0, 4.0, 10.0)
MAX_PAUSE_S = 120.0  # no server may ask for a longer one
_BUSY = (408, 425, 429)  # HTTP: timed out, too early, too many requests; and everything from 500
_BUSY_CODES = ("RequestTimeout", "OperationAborted", "ConditionalRequestConflict")  # of S3, 400 and 409
_NETWORK_LIBRARIES = ("obstore", "botocore", "httpx", "httpx2", "httpcore", "urllib3", "requests")
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
# of botocore and obstore, which say by the class of an error what lasts
_LASTING_WORDS = (
    "Credentials", "ParamValidation", "PermissionDenied", "Unauthenticated", "NotSupported", "InvalidPath",
    "Precondition", "AlreadyExists", "UnknownConfigurationKey",
)  # fmt: skip
_STATUS = re.compile(r"status code: (\d{3})\b")  # where the text of obstore has it
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")  # of S3, in the answer that the text quotes
_NO_CREDENTIALS = "no credentials found"
# Other failures whose kind the text of obstore tells
_IN_WORDS = {
    "incorrectly configured region": "the bucket is in another region than AWS_REGION says",
    "//169.254.": _NO_CREDENTIALS,  # where machines of a cloud ask for theirs, in vain
    "//metadata.google.internal": _NO_CREDENTIALS,
    "TimedOut": "timed out",
    "error sending request": "no connection",
}
_retries = Counters(1, 1)  # loader processes count here, too; two at one instant may count one

_T = TypeVar("_T")


class Stopped(Exception):
    """The work was told to end."""


class BadAnswer(OSError):
    """An answer other than asked for; its text is ours and may be shown."""


class Busy(BadAnswer):
    """The server asks to be left alone for `pause_s` seconds, if it says for how long."""

    def __init__(self, status: int, pause_s: float):
        super().__init__(f"HTTP {status}")
        self.status, self.pause_s = status, pause_s


class ShortBody(BadAnswer):
    """An answer that ended too early."""


class Attempts:
    """Failures of one address in a row. `stop`, when it is set, ends a pause with Stopped."""

    def __init__(
        self, address: str, *, to: Literal["read", "write"] = "read", stop: threading.Event | None = None
    ):
        self.failures = 0
        self._address, self._to, self._stop = redacted(address), to, stop or threading.Event()

    def pause(self, error: Exception, *, at: int | None = None) -> None:
        """Wait after a failure, at byte `at`; a DataError that names it if another attempt is of no use."""
        if isinstance(error, StreamganError | Stopped):
            raise error
        where = "" if at is None else f" at byte {at}"
        what = f"cannot be {'read' if self._to == 'read' else 'written'}{where} ({error_kind(error)}"
        if not is_transient(error):
            if is_defect(error):
                raise error
            todo = f"check the address and that you may {self._to} it"
            if _in_words(error) == _NO_CREDENTIALS:
                todo = "log in to your provider, or set its variables (AWS_*, GOOGLE_*, AZURE_STORAGE_*)"
            raise DataError(self._address, f"{what})", todo) from error
        self.failures += 1
        if self.failures > len(RETRY_DELAYS_S):
            todo = "run the same command again to continue"
            raise DataError(self._address, f"{what}, {self.failures} attempts)", todo) from error
        _retries.add(0, (1,))
        asked = min(_retry_after(error), MAX_PAUSE_S)
        if self._stop.wait(max(RETRY_DELAYS_S[self.failures - 1], asked)):
            raise Stopped from error


def with_retries(
    address: str,
    action: Callable[[], _T],
    *,
    to: Literal["read", "write"] = "read",
    stop: threading.Event | None = None,
) -> _T:
    """What `action` returns; it is repeated after pauses while it fails for reasons that may pass."""
    attempts = Attempts(address, to=to, stop=stop)
    while True:
        try:
            return action()
        except Exception as error:
            attempts.pause(error)


def num_retries() -> int:
    """Requests that this process and its loader processes have made again after a failure."""
    return _retries.row(0)[0]


def shared() -> Counters:
    """What `num_retries` reads, for processes that are started with it."""
    return _retries


def share(counters: Counters) -> None:
    """Count in what another process has `shared`."""
    global _retries
    _retries = counters


def status_of(error: BaseException) -> int | None:
    """The HTTP status of a failed request, where there was an answer."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None) or getattr(response, "status_code", None)  # ours; requests, httpx
    if isinstance(status, int):
        return status
    found = _STATUS.search(str(error)) if _is_of_obstore(error) and not _in_words(error) else None
    return int(found[1]) if found else None


def _is_of_obstore(error: BaseException) -> bool:
    """It raises one class of Python's own, too."""
    return type(error).__module__.startswith("obstore") or isinstance(error, FileNotFoundError)


def is_absent(error: BaseException | None) -> bool:
    """Whether a failure says that there is nothing of this name."""
    return isinstance(error, FileNotFoundError) or (error is not None and status_of(error) in (404, 410))


def _code(error: BaseException) -> str:
    """The word that S3 has for a failure (NoSuchBucket, SlowDown), if it gave one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = str(response.get("Error", {}).get("Code", ""))
        return code if re.fullmatch("[A-Za-z]{1,60}", code) else ""
    found = _CODE.search(str(error)) if _is_of_obstore(error) else None
    return found[1] if found else ""


def _in_words(error: BaseException) -> str:
    """What obstore says where the store itself gave no answer, without the address that its text holds."""
    text = str(error) if _is_of_obstore(error) else ""
    return next((words for mark, words in _IN_WORDS.items() if mark in text), "")


def is_defect(error: BaseException) -> bool:
    """Whether an error says nothing of network, server or file, and so is one of this program."""
    return not isinstance(error, OSError | ValueError) and not _from_network(error)


def _from_network(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _NETWORK_LIBRARIES


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    if status := status_of(error):
        return status in _BUSY or (status >= 500 and status != 501) or _code(error) in _BUSY_CODES
    if isinstance(error, _LASTING) or any(word in type(error).__name__ for word in _LASTING_WORDS):
        return False
    if _in_words(error) in (_NO_CREDENTIALS, _IN_WORDS["incorrectly configured region"]):
        return False
    return isinstance(error, OSError) or _from_network(error)


def error_kind(error: BaseException) -> str:
    """An error without its message, which may hold an address with a signature."""
    if isinstance(error, BadAnswer):
        return str(error)
    status, code = status_of(error), _code(error)
    named = f"{code}, " if code else ""
    return f"{named}HTTP {status}" if status else _in_words(error) or type(error).__name__


def _retry_after(error: BaseException) -> float:
    """Seconds that the server asks to wait, or 0."""
    if isinstance(error, Busy):
        return error.pause_s
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    return seconds_until(str(headers.get("Retry-After") or ""))


def seconds_until(retry_after: str) -> float:
    """Seconds from now that a header of this name means: a number, or a date (RFC 9110)."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0
