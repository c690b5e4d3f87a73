"""The engine `ray`: units are tasks of a Ray cluster that runs already.

A task that is lost with its process or its node is done again elsewhere, even while its first try may live on
where nobody can see it: both write under temporary names of their own, commit in one step, and write the
same bytes. The nodes share the folder of the set, or write to a bucket; the source has the same path on all.
"""

import logging
import socket
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from streamgan.core.errors import ConfigError, DataError, StreamganError
from streamgan.core.storage.locks import wait_for_lock
from streamgan.sharding.unit.plan import Unit

from .local import PULSE_S, Lock, Pulse, Results, Task, Watch

MAX_RETRIES = 5  # of a unit whose worker or node has died
CONNECT_TIMEOUT_S = 5.0
CANCEL_TIMEOUT_S = 10.0
AUTO = "auto"


def run_ray(
    task: Task,
    units: Sequence[Unit],
    *,
    num_workers: int | None,
    lock: Lock,
    watch: Watch,
    address: str = AUTO,
) -> Results:
    """Tasks of the cluster at `address`, `num_workers` at a time (None: one per CPU of the cluster).

    ConfigError if there is no cluster. A cluster shows complete units alone: its pulses say no rows.
    """
    ray, ours = _connect(address)
    waiting, pending = list(reversed(units)), {}
    try:
        attempt = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_attempt)
        told = ray.put((task, lock))  # once, not with each unit
        at_once = num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        while waiting or pending:
            while waiting and len(pending) < at_once:
                unit = waiting.pop()
                pending[attempt.remote(told, unit)] = unit.number
            done, _ = ray.wait(list(pending), num_returns=1, timeout=PULSE_S)
            for reference in done:
                yield _result(ray, reference, pending.pop(reference))
            watch([Pulse(worker, None) for worker in range(len(pending))])
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=CANCEL_TIMEOUT_S)
        if ours:
            ray.shutdown()


def _attempt(told: tuple[Task, Lock], unit: Unit) -> dict[str, Any] | StreamganError:
    """On a node: the record of `unit`, or what a user can do about its failure."""
    task, lock = told
    try:
        with ExitStack() as stack:
            if lock:
                _hold(stack, lock)
            return task(unit, lambda file, rows, size: None)
    except StreamganError as error:
        return error


def _hold(stack: ExitStack, lock: Path) -> None:
    """As a worker of this machine does; DataError if this node does not see the folder of the set."""
    try:
        file = stack.enter_context(lock.open("rb"))
    except OSError as error:
        what = f"cannot be seen by node {socket.gethostname()} of the cluster ({error.strerror})"
        todo = "choose an --out that all nodes share, or s3://BUCKET/PREFIX"
        raise DataError(lock.parent.parent, what, todo) from error
    wait_for_lock(file, shared=True)


def _result(ray: Any, reference: Any, unit: int) -> dict[str, Any]:
    try:
        result = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # a defect, with the traceback of the node
    except ray.exceptions.RayError as error:
        what = (
            f"unit {unit} was lost with its process or node {MAX_RETRIES + 1} times ({type(error).__name__})"
        )
        todo = "see the memory and the logs of the cluster, then run the same command again to continue"
        raise DataError("sharding", what, todo) from error
    if isinstance(result, StreamganError):
        raise result
    return result


def _connect(address: str) -> tuple[Any, bool]:
    """(the library, whether the connection is ours to end)."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        todo = "install it on every node with: pip install 'streamgan[ray]'"
        raise ConfigError("--engine ray", f"needs a library ({error.name or error})", todo) from error
    if ray.is_initialized():
        return ray, False
    _refuse_silence(address)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, (str(error).splitlines() or [""])[0].rstrip(".")) from error
    return ray, True


def _refuse_silence(address: str) -> None:
    """ConfigError if nobody listens at `address`: Ray would try for minutes, and say so in many lines."""
    if address == AUTO:
        return
    host, colon, port = address.rpartition(":")
    if "/" in address or not colon or not port.isdigit():
        todo = "give HOST:PORT of its head, from one of its nodes"
        raise ConfigError("--address", f"not that of a Ray cluster (got {address})", todo)
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, getattr(error, "strerror", None) or type(error).__name__) from error


def _no_cluster(address: str, why: str) -> ConfigError:
    todo = "run this on a node of a cluster (`ray start --head` makes one), or give --address HOST:PORT"
    return ConfigError("--engine ray", f"no Ray cluster at {address} ({why})", todo)
