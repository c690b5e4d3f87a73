"""Starting the processes of a loader: how long until the first batch, and what each process costs in memory.

    python benchmarks/loader_start.py DIR --other CHECKOUT --out benchmarks/results/loader_start.md

DIR is a shard set of small photos, a thousand of them in its first shard. Every round starts the loader of
this tree and that of CHECKOUT (an earlier commit, say) in turn, each six times in a new process that has
torch loaded: the first start is apart from the later ones. Memory is measured with an index of a million
samples, on disk and from a server, after some batches, as that which a process shares with no other.
"""

import multiprocessing
import shlex
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from by_range import serve
from common import (
    ask_tree,
    load,
    machine,
    markdown,
    parser_of_two_trees,
    scratch,
    spread,
    two_trees,
    write_report,
)

from streamgan.core.storage.files import sha256_file
from streamgan.data.format import Manifest, SplitEntry, read_manifest, write_index, write_manifest

STARTS = 6
SAMPLES = 1_000_000
WORKERS = (2, 8)


def run_arm(
    tree: Path, root: str, workers: int, *, starts: int = STARTS, cache: str = "cache"
) -> dict[str, Any]:
    script = str(Path(__file__).with_name("loader_start_arm.py"))
    return ask_tree(tree, script, root, workers, starts, cache)


def million(folder: Path, root: Path) -> None:
    """At `root` the first shard of the set in `folder` under so many names that a split has SAMPLES rows."""
    manifest = read_manifest(folder)
    train = manifest.splits["train"]
    entry = train.shards[0]
    count = SAMPLES // entry.samples
    root.mkdir()
    shards = tuple(replace(entry, name=f"train-{number:06d}.tar") for number in range(count))
    for shard in shards:
        (root / shard.name).symlink_to((folder / entry.name).absolute())
    rows = np.load(folder / "train.index")[: entry.samples]
    write_index(root / "train.index", np.tile(rows, count))
    digest = sha256_file(root / "train.index")
    split = SplitEntry(count * entry.samples, count * entry.bytes, digest, shards)
    write_manifest(root, Manifest(manifest.source, manifest.options, {"train": split}, manifest.quarantine))


def start_rows(folder: Path, trees: dict[str, Path], rounds: int) -> list[list[str]]:
    rows = []
    for workers in WORKERS:
        arms: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
        for _ in range(rounds):
            for name, tree in trees.items():
                arms[name].append(run_arm(tree, str(folder), workers))
        for name, found in arms.items():
            columns = [[one["times"][0] for one in found]]
            for what in ("times", "costs"):
                later = [statistics.median(one[what][1:]) for one in found]
                others = [statistics.median(one[what][1:]) for one in arms[list(trees)[-1]]]
                columns += [later, [one / other for one, other in zip(later, others, strict=True)]]
            rows.append([f"{workers} workers, {name}", *map(spread, columns)])
    return rows


def memory_rows(root: Path, trees: dict[str, Path]) -> list[list[str]]:
    context = multiprocessing.get_context("fork")
    port, requests = context.Value("i", 0), context.Value("i", 0)
    server = context.Process(target=serve, args=(root, 0.0, port, requests), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    rows = []
    for name, tree in trees.items():
        for workers in WORKERS:
            for where, cache in ((str(root), "cache"), (f"http://127.0.0.1:{port.value}", "none")):
                found = run_arm(tree, where, workers, starts=1, cache=cache)
                kind = "by range" if cache == "none" else "on disk"
                whole = f"{found['servers'][0]:.0f}" if found["servers"] else "none"
                rows.append([f"{kind}, {workers} workers, {name}", spread(found["workers"], 0), whole])
    server.kill()
    server.join()
    return rows


def main() -> None:
    parser = parser_of_two_trees(__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--data", default="unnamed", help="what DIR is, for the report")
    args = parser.parse_args()
    trees, before = two_trees(args), load()
    starts = start_rows(args.folder.absolute(), trees, args.rounds)
    between = load()
    with scratch(None) as folder:
        million(args.folder, folder / "million")
        memory = memory_rows(folder / "million", trees)
    one = f"{args.name} = 1"
    head = ["", "first start, s", "later starts, s", one, "later starts, CPU s", one]
    words = ["DIR", "--other", "CHECKOUT", "--name", args.name, "--rounds", str(args.rounds)]
    command = shlex.join(["python", "benchmarks/loader_start.py", *words])
    text = (
        f"# Starting loader processes\n\nMachine: {machine()}. Load average {before} before, {between} after "
        f"the starts.\nData: {args.data}.\nCommand: `{command}`. n = {args.rounds} rounds in "
        f"turn, each {STARTS} starts in a process that has torch loaded; seconds from `iter(loader)` to the "
        "first batch of 48 photos of 64 pixels, median (min-max) over rounds; the later starts of a round by "
        "their median, CPU of all processes together.\n\n"
        f"{markdown(head, starts)}\n\n"
        f"Memory of a process with an index of {SAMPLES:,} samples (32 MB), MB:\n\n"
        f"{markdown(['', 'of a worker alone', 'resident, server of workers'], memory)}"
    )
    write_report(args.out, text)


if __name__ == "__main__":
    main()
