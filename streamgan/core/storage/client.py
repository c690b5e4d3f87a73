"""The obstore client of each bucket and website, and the one thread in which all requests run.

Nothing is tried again here but the parts of an upload: `retry` does that, for all stores alike.
A client belongs to its process: obstore runs threads of its own, which do not survive a fork.
"""

import asyncio
import atexit
import base64
import concurrent.futures
import functools
import http.client
import os
import string
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from streamgan.core.errors import ConfigError

from .address import parse
from .hub import web_address
from .providers import SETTINGS, open_bucket, own_certificates
from .retry import RETRY_DELAYS_S, Stopped, seconds_until

STALL_S = 30.0  # without a byte; a piece of `download.PIECE_BYTES` has to arrive in as long
REQUEST_S = 600.0  # for all of a request, however it gets on
CONNECT_S = 20.0
POLL_S = 0.1
_lock = threading.Lock()
_first_user: int | None = None  # the process that has made a client


Use = Literal["stream", "range", "parts"]


def client(address: str, use: Use = "stream") -> tuple[Any, str]:
    """The obstore client that an address belongs to, and the path there; ConfigError if there is none.

    `use`: "range" gives up as soon as a short request stalls; "parts" sends the part of an upload again by
    itself, so that not all of them have to be.
    """
    _refuse_fork()
    scheme, rest = parse(address)
    if scheme not in ("http", "https", "hf"):
        root, _, path = rest.partition("/")
        settings = tuple(map(os.environ.get, SETTINGS))
        return _bucket(scheme, root, use, settings), path.strip("/")
    parts, headers = _web_request(address)
    folder, _, name = parts.path.rpartition("/")
    base = urlunsplit(parts._replace(path=folder))
    return _website(base, tuple(sorted(headers.items())), use), unquote(name)


def _refuse_fork() -> None:
    """ConfigError in a fork of a process that has used a store: requests would wait for ever there."""
    global _first_user
    _first_user = _first_user or os.getpid()
    if _first_user != os.getpid():
        what = "is a fork of one that has read from an address, and cannot read from one itself"
        todo = 'start it with multiprocessing.get_context("spawn") or ("forkserver")'
        raise ConfigError(f"process {os.getpid()}", what, todo)


def call(
    function: Callable[..., Any], address: str, *values: Any, use: Use = "stream", **options: Any
) -> Any:
    """What an `..._async` function of obstore gives for `address`."""

    async def ask() -> Any:
        return await function(*client(address, use), *values, **options)

    return wait(ask())


def wait(coroutine: Coroutine[Any, Any, Any], stop: threading.Event | None = None) -> Any:
    """What a coroutine in the thread of requests gives; Stopped, and it is cancelled, when `stop` is."""
    try:
        _refuse_fork()  # in which that thread does not run
        with _lock:
            loop = _loop()
    except BaseException:
        coroutine.close()
        raise
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        while not concurrent.futures.wait([future], timeout=POLL_S).done:
            if stop is not None and stop.is_set():
                raise Stopped
        return future.result()
    finally:
        future.cancel()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="storage", daemon=True).start()
    atexit.register(_end, loop)
    return loop


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what Ctrl-C has left: Python would end with a traceback for each."""

    async def cancel() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    if _first_user == os.getpid():
        with suppress(Exception):  # nothing depends on it
            asyncio.run_coroutine_threadsafe(cancel(), loop).result(2.0)


def _web_request(address: str) -> tuple[SplitResult, dict[str, str]]:
    """Where a request to a website goes, and its headers; name and password become one (RFC 7617)."""
    url, headers = web_address(address)
    parts, headers = urlsplit(url), {**headers, "Accept-Encoding": "identity"}
    if parts.username is not None:
        who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(who.encode()).decode()
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]), headers


@functools.cache
def _website(base: str, headers: tuple[tuple[str, str], ...], use: Use) -> Any:
    from obstore.store import HTTPStore

    return HTTPStore(base, **_manners(base.startswith("http://"), use=use, headers=dict(headers)))


@functools.cache
def _bucket(scheme: str, root: str, use: Use, settings: tuple[str | None, ...]) -> Any:
    return open_bucket(scheme, root, functools.partial(_manners, use=use))


def _manners(http: bool, *, use: Use, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """How every client behaves. `http`: it may talk to a server without TLS."""
    options: dict[str, Any] = {
        "timeout": timedelta(seconds=2 * STALL_S if use == "range" else REQUEST_S),
        "read_timeout": timedelta(seconds=STALL_S if use == "range" else REQUEST_S),
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "allow_http": http,
    }
    if headers:
        options["default_headers"] = dict(headers)
    if bundle := own_certificates():
        options["root_certificate"] = bundle
    first, *_, last = (timedelta(seconds=delay) for delay in RETRY_DELAYS_S)
    backoff = {"init_backoff": first, "max_backoff": last}
    return {
        "client_options": options,
        "retry_config": {"max_retries": len(RETRY_DELAYS_S) if use == "parts" else 0, "backoff": backoff},
    }


def asked_pause(address: str) -> float:
    """Seconds for which a busy website asks to be left alone (Retry-After); 0 if it says nothing.

    obstore shows no headers of an answer, so this asks once more, for the headers alone.
    """
    parts, headers = _web_request(address)
    if not parts.hostname:
        return 0.0
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname, parts.port, timeout=CONNECT_S)
    try:
        where = quote(urlunsplit(("", "", parts.path, parts.query, "")), safe=string.punctuation)
        connection.request("GET", where, headers={**headers, "Range": "bytes=0-0"})
        return seconds_until(connection.getresponse().getheader("Retry-After") or "")
    except (OSError, http.client.HTTPException):
        return 0.0
    finally:
        connection.close()
