"""Tables and targets of `remote.py`, from its runs.

A run is a dict: `server`, `latency_ms`, `arm`, and either why it is `missing`, or what one epoch took.
"""

import statistics
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from common import markdown, spread
from load_arms import BATCH
from remote_arms import CACHED, PEERS, RANGES, RANGES_STARTED, STARTED

Run = dict[str, Any]
SERVERS = {"s3": "S3", "http": "http", "moto": "S3 of moto"}
TARGET_MS = 20  # at which streamgan is to be ahead of its peers
HEAD = (
    *("", "images/s", "cached = 1", "CPU ms per image", "cached = 1", "after the first batch"),
    *("first batch, s", "MB", "requests", "MB twice"),
)
OURS = (CACHED, STARTED, RANGES, RANGES_STARTED)
Pairs = list[tuple[Run, Run]]


def of(runs: Sequence[Run], server: str, latency_ms: float, arm: str | None) -> dict[int, Run]:
    """The runs of an arm that came to their end, by their round."""
    wanted = {"server": server, "latency_ms": latency_ms, "arm": arm}
    return {run["round"]: run for run in runs if wanted.items() <= run.items() and "missing" not in run}


def paired(ours: dict[int, Run], theirs: dict[int, Run]) -> Pairs:
    return [(ours[number], theirs[number]) for number in ours.keys() & theirs.keys()]


def speed(run: Run) -> float:
    return run["images"] / run["wall_s"]


def cpu_ms(run: Run) -> float:
    return 1e3 * run["cpu_s"] / run["images"]


def later_cpu_ms(run: Run) -> float:
    """Without all that happened until the first batch was there."""
    return 1e3 * (run["cpu_s"] - run["first_cpu_s"]) / (run["images"] - BATCH)


def ratios(pairs: Pairs, measure: Callable[[Run], float]) -> list[float]:
    return [measure(one) / measure(other) for one, other in pairs]


def table(runs: Sequence[Run], server: str, latency_ms: float) -> str:
    cached = of(runs, server, latency_ms, CACHED)
    rows = []
    for arm in dict.fromkeys(run["arm"] for run in runs if run["server"] == server):
        found = of(runs, server, latency_ms, arm)
        here = [
            run for run in runs if (run["server"], run["latency_ms"], run["arm"]) == (server, latency_ms, arm)
        ]
        why = [run["missing"] for run in here if "missing" in run]
        note = f" ({len(why)} of {len(here)} runs missing: {why[0]})" if why else ""
        if not found:
            rows.append([arm + note, *["-"] * (len(HEAD) - 1)])
            continue
        pairs, each = paired(found, cached), list(found.values())
        rows.append(
            [
                arm + note,
                spread([speed(run) for run in each], 0),
                spread(ratios(pairs, speed)) if pairs else "-",
                spread([cpu_ms(run) for run in each]),
                spread(ratios(pairs, cpu_ms)) if pairs else "-",
                spread([later_cpu_ms(run) for run in each]),
                spread([run["first_s"] for run in each]),
                spread([run["bytes"] / 1e6 for run in each], 0),
                spread([run["requests"] for run in each], 0),
                f"{max(run['twice'] for run in each) / 1e6:.1f}",
            ]
        )
    return markdown(HEAD, rows)


def targets(runs: Sequence[Run], baseline: str | None) -> str:
    """What was aimed at beside what was measured, for each server and latency that has both arms."""
    rows: list[list[str]] = []

    def add(what: str, values: Sequence[float], *, most: float = inf, least: float = -inf) -> None:
        rows.append([what, spread(values), "met" if least <= statistics.median(values) <= most else "MISSED"])

    for server, latency in sorted({(run["server"], run["latency_ms"]) for run in runs}):
        where = f"{SERVERS[server]}, {latency:g} ms: "
        cached, started, ranged = (of(runs, server, latency, arm) for arm in (CACHED, STARTED, RANGES))
        peers = {arm: found for arm in PEERS if (found := of(runs, server, latency, arm))}
        if cached and peers and latency == TARGET_MS:
            best = max(peers, key=lambda arm: statistics.median(map(speed, peers[arm].values())))
            what = f"whole shards at least 1.5 x the images/s of the fastest peer ({best})"
            add(where + what, ratios(paired(cached, peers[best]), speed), least=1.5)
            what = f"{where}the same, fork server ran before"
            add(what, ratios(paired(started, peers[best]), speed), least=1.5)
            first = min(peers, key=lambda arm: statistics.median(map(first_s, peers[arm].values())))
            what = f"first batch in at most 0.5 x the time of the earliest peer ({first})"
            add(where + what, ratios(paired(cached, peers[first]), first_s), most=0.5)
            what = f"{where}the same, fork server ran before"
            add(what, ratios(paired(started, peers[first]), first_s), most=0.5)
        old = of(runs, server, latency, baseline)
        for ours, more in (
            (ranged, ""),
            (of(runs, server, latency, RANGES_STARTED), ", fork server ran before"),
        ):
            if pairs := paired(ours, old):
                what = f"{where}data.cache=none{more}"
                add(f"{what}: at most 0.5 x the CPU of {baseline}", ratios(pairs, cpu_ms), most=0.5)
                add(f"{what}: at least its images/s", ratios(pairs, speed), least=1)
    twice = [run["twice"] for run in runs if run["arm"] in OURS and "twice" in run]
    if twice:
        most = max(twice)
        rows.append(
            ["bytes that streamgan fetched twice, most of a run: 0", f"{most}", "MISSED" if most else "met"]
        )
    return markdown(["target", "measured", ""], rows)


def first_s(run: Run) -> float:
    return run["first_s"]


def tables(runs: Sequence[Run]) -> str:
    parts = []
    for server, latency in sorted({(run["server"], run["latency_ms"]) for run in runs}):
        parts.append(f"## {SERVERS[server]}, {latency:g} ms\n\n{table(runs, server, latency)}")
    return "\n\n".join(parts)
