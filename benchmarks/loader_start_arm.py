"""One process of `loader_start.py`: starts a loader several times and says, as JSON, what that costs."""

import json
import sys
import time
import warnings

import psutil
import torch  # noqa: F401  # as in a training process

from streamgan.data import build_loader

MEMORY_BATCHES = 100


def cpu_s() -> float:
    """User and system seconds of this process and of all that it has started, those that have ended too."""
    me = psutil.Process()
    return sum(sum(one.cpu_times()[:4]) for one in [me, *me.children()]) + sum(
        sum(worker.cpu_times()[:2]) for child in me.children() for worker in child.children()
    )


def started(root: str, workers: int, **options: object):
    """(seconds from iterating to the first batch, CPU seconds meanwhile, the batches)"""
    loader = build_loader(root, batch=48, size=64, workers=workers, **options)  # type: ignore[arg-type]
    spent, began = cpu_s(), time.perf_counter()
    batches = iter(loader)
    next(batches)
    return time.perf_counter() - began, cpu_s() - spent, batches


def own_mb(process: psutil.Process) -> float:
    """Memory that no other process shares."""
    return process.memory_full_info().uss / 1e6


def main() -> None:
    root, workers, starts, cache = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    warnings.simplefilter("ignore")  # more processes than cores
    times, costs, memory = [], [], {}
    for number in range(starts):
        seconds, spent, batches = started(root, workers, cache=cache)
        times.append(seconds)
        costs.append(spent)
        if number == starts - 1:
            for _ in range(MEMORY_BATCHES if cache != "none" else 4):
                next(batches)
            children = psutil.Process().children(recursive=True)
            servers = [child for child in children if child.children()]
            others = [child for child in children if child not in servers]
            memory["workers"] = [own_mb(one) for one in others]
            memory["servers"] = [one.memory_info().rss / 1e6 for one in servers]
        batches.close()
    print(json.dumps({"times": times, "costs": costs, **memory}))


if __name__ == "__main__":
    main()
