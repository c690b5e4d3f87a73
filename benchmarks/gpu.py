"""All that only a card can tell, measured in the time of a short loan of one.

    python benchmarks/gpu.py --photos DIR --tiny DIR... --out DIR --minutes 8

DIR are folders of parquet: photos of 512 pixels in the Hub's schema, and photos of 64 pixels. The parts run
in order of their value, each in a process and a time of its own. OUT/gpu.json and OUT/gpu.md are written anew
whenever a part has more to tell, so that a cut-off costs the part in hand at most; a part that fails is
recorded with its error, and the next one runs. `--only step,feed` runs some of them and keeps what
OUT/gpu.json has of the others. `--rehearse` runs all of them at tiny sizes, on a CPU if need be: it shows
that they work and measures nothing. The exit code is 1 if a part failed.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from common import load, scratch

from streamgan.core.machine import usable_cores
from streamgan.core.storage.files import atomic_write, write_json

# Seconds of each part when --minutes is 8, else in proportion. What one leaves, the later ones may use.
SECONDS = {
    "environment": 20, "tests": 90, "step": 135, "memory": 20, "feed": 65,
    "decode": 25, "paper": 25, "resume": 45, "learn": 50, "colorize": 30,
}  # fmt: skip
GRACE_S = 5.0  # beyond its time, for the last words of a part
POLL_S = 0.5
Results = dict[str, dict[str, Any]]


def run_part(name: str, task_file: Path, result_file: Path) -> None:
    """In a process of its own: measure a part, keeping each state of its result."""
    from gpu_parts import PARTS
    from gpu_parts.task import Task, card

    words = json.loads(task_file.read_text())
    paths = {key: Path(words[key]) for key in ("photos", "tiny", "scratch", "out")}
    record: dict[str, Any] = {"result": None, "error": None, "card": card()}
    try:
        for result in PARTS[name].measure(Task(**{**words, **paths})):
            record["result"] = result
            write_json(result_file, record)
    except Exception:  # the other parts go on: it is shown with theirs, and the exit code is 1
        record["error"] = traceback.format_exc()[-4000:]
    write_json(result_file, record)


def supervise(name: str, task: dict[str, Any], results: Results, save: Any) -> None:
    """Run a part to its end or to the end of its time, saving what it has so far whenever there is more."""
    with scratch(Path(task["scratch"])) as folder:
        task_file, result_file = folder / "task.json", folder / "result.json"
        write_json(task_file, {**task, "scratch": str(folder)})
        with open(folder / "log.txt", "w") as log:
            process = subprocess.Popen(
                [sys.executable, __file__, "--part", name, str(task_file), str(result_file)],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            began, seen = time.monotonic(), 0
            record = results[name] = {"result": None, "error": None, "rehearsed": task["rehearse"]}
            try:
                while process.poll() is None and time.monotonic() - began < task["seconds"] + GRACE_S:
                    time.sleep(POLL_S)
                    if result_file.exists() and (changed := result_file.stat().st_mtime_ns) != seen:
                        seen = changed
                        record |= json.loads(result_file.read_text())
                        save()
                code = process.poll()
            finally:
                _kill_group(process)
        if result_file.exists():
            record |= json.loads(result_file.read_text())
        if code is None:
            record["error"] = (
                f"cut off after {task['seconds']:.0f} s; what it has measured by then stands here"
            )
        elif code:
            record["error"] = f"ended with {code}: {(folder / 'log.txt').read_text()[-3000:]}"
        record["seconds"] = round(time.monotonic() - began, 1)
    save()


def _kill_group(process: subprocess.Popen) -> None:
    """End a part and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def make_sets(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """The photos as shard sets."""
    from streamgan.sharding.run import ShardOptions, shard

    sets, processes = {}, min(8, usable_cores())
    for name, sources, shares, limit in (
        ("photos", [options.photos], "train=80,val=10,test=10", 24),
        ("tiny", options.tiny, "train=88,val=2,test=10", 200),
    ):
        settings = ShardOptions(
            splits=shares, samples_per_shard=50 if name == "photos" else 500, gray="derive",
            max_samples=limit if options.rehearse else None,
        )  # fmt: skip
        shard([str(source) for source in sources], folder / name, options=settings, num_workers=processes)
        sets[name] = str(folder / name)
    return sets


def write_page(path: Path, results: Results, command: str) -> None:
    """OUT/gpu.md from the results as they are."""
    from gpu_parts import PARTS

    text = [
        f"# On a card\n\nLast command: `{command}`. Figures with a spread: median (min-max) of the rounds. "
        "Speeds of two arms are compared within a round."
    ]
    for name, part in PARTS.items():
        if name not in results:
            continue
        record = results[name]
        summary = " ".join((part.__doc__ or "").split("\n\n")[0].split())
        text.append(f"## {name}\n\n{summary}")
        if record.get("rehearsed"):
            text.append(
                "**A rehearsal with tiny networks and photos: it shows that the part works, and no figure "
                "here means anything. Sizes in headings are those of a real run.**"
            )
        if record.get("note"):  # written into gpu.json by hand
            text.append(record["note"])
        if record.get("result"):
            try:
                text.append(part.report(record["result"]))
            except Exception:  # what was measured stays in gpu.json
                record["error"] = (record.get("error") or "") + traceback.format_exc()[-2000:]
        if record.get("error"):
            text.append(f"Not complete:\n\n```\n{record['error'].strip()}\n```")
        if "seconds" in record:
            took = f"{record['seconds']} s, load average then {record.get('load', '-')}"
            text.append(f"On {record.get('card', 'an unknown card')}: {took}.")
    with atomic_write(path) as file:
        file.write("\n\n".join(text).encode() + b"\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="parquet of 512-pixel photos")
    parser.add_argument("--tiny", type=Path, nargs="+", required=True, help="parquet of 64-pixel photos")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", metavar="PART,...", help=f"of {', '.join(SECONDS)}")
    parser.add_argument("--rehearse", action="store_true", help="every part at tiny sizes")
    parser.add_argument("--scratch", type=Path, help="where the data goes for the time being")
    options = parser.parse_args()
    options.parts = options.only.split(",") if options.only else list(SECONDS)
    if unknown := [name for name in options.parts if name not in SECONDS]:
        parser.error(f"--only: no part {unknown[0]!r} (choose from {', '.join(SECONDS)})")
    return options


def main() -> int:
    if sys.argv[1:2] == ["--part"]:
        run_part(sys.argv[2], *map(Path, sys.argv[3:]))
        return 0
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "gpu.json"
    results: Results = json.loads(kept.read_text()) if kept.exists() else {}
    command = shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]])

    def save() -> None:
        write_json(kept, results)
        write_page(options.out / "gpu.md", results, command)

    end = time.monotonic() + 60 * options.minutes
    with scratch(options.scratch) as folder:
        task = {**make_sets(options, folder), "out": str(options.out.resolve()), "scratch": str(folder)}
        task["rehearse"] = options.rehearse
        for index, name in enumerate(options.parts):
            later = sum(SECONDS[other] for other in options.parts[index + 1 :])
            left = end - time.monotonic()
            seconds = max(1.0, left * SECONDS[name] / (SECONDS[name] + later))
            print(f"{name}: {seconds:.0f} s at most, {left:.0f} s left", file=sys.stderr, flush=True)
            supervise(name, {**task, "seconds": seconds}, results, save)
            results[name]["load"] = load()
            said = results[name]["error"] or "done"
            print(
                f"{name}: {results[name]['seconds']} s, {said.strip().splitlines()[-1]}",
                file=sys.stderr,
                flush=True,
            )
    save()
    print((options.out / "gpu.md").read_text())
    return 1 if any(results[name]["error"] for name in options.parts) else 0


if __name__ == "__main__":
    sys.exit(main())
