"""Damage a shard set in every way and see whether `streamgan verify` finds it, with webdataset beside it.

    python benchmarks/soak_verify.py PHOTOS --data "what PHOTOS is" --out benchmarks/results/soak_verify.md

Random bit flips over all kinds of files of a set, a shard cut at every multiple of 512 bytes, and shards that
are missing, extra, swapped and duplicated. A flip counts as found only if verify names that file and no
other, and the key if it lies in a sample of a tar. webdataset reads each damaged tar to its end, with the
handler that raises; what it delivers is compared with the sound shard, byte by byte.
"""

import argparse
import io
import itertools
import random
import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from common import load, machine, markdown, read_pairs, scratch, tree_bytes, write_parquet, write_report
from PIL import Image
from webdataset import WebDataset, reraise_exception  # pyright: ignore[reportAttributeAccessIssue]

from streamgan.data.format import idx_name, read_idx, read_manifest
from streamgan.sharding.run import ShardOptions, shard
from streamgan.sharding.verify import Finding, verify

KINDS = {"tar": 6, "idx": 1, "index": 1, "json": 1, "jsonl": 1}  # flips out of ten
Delivered = dict[str, dict[str, bytes]]


def make_set(pairs: list[tuple[bytes, bytes]], folder: Path, *, samples_per_shard: int) -> Path:
    """A set of the pairs and of three bad rows, so that its quarantine is not empty."""
    bad = [(color[: len(color) // 2], gray) for color, gray in pairs[:3]]
    write_parquet(folder / "in" / "train-0.parquet", pairs + bad, group=samples_per_shard // 2)
    options = ShardOptions(samples_per_shard=samples_per_shard)
    shard([str(folder / "in")], folder / "set", options=options, num_workers=0, max_bad=1)
    return folder / "set"


def deliver(path: Path) -> tuple[Delivered, str | None]:
    """What webdataset delivers of a tar, and the exception that it raises, if any."""
    samples: Delivered = {}
    try:
        for sample in WebDataset(str(path), shardshuffle=False, handler=reraise_exception, empty_check=False):
            members = {k: v for k, v in sample.items() if not k.startswith("__")}
            samples[f"{sample['__key__']}#{len(samples)}"] = members
    except Exception as error:
        return samples, type(error).__name__
    return samples, None


def peer_verdict(sound: Delivered, path: Path) -> str:
    """What a user of webdataset would notice of the damage."""
    samples, error = deliver(path)
    if error:
        return "raises"
    if samples == sound:
        return "harmless: all samples delivered, unchanged"
    if len(samples) < len(sound):
        return "SILENT: samples are missing"
    changed = [members for key, members in samples.items() if members != sound.get(key)]
    for members in changed:
        for name, data in members.items():
            if name.rpartition(".")[2] in ("jpg", "png", "webp"):
                try:
                    Image.open(io.BytesIO(data)).load()
                except Exception:
                    return "delivers changed bytes, which PIL then refuses"
    return "SILENT: changed samples are delivered"


def owner(root: Path, name: str, at: int) -> str | None:
    """The key of the member in which byte `at` of a tar lies; None in headers, padding and other files."""
    if not name.endswith(".tar"):
        return None
    for sample in read_idx(root / idx_name(name)):
        for member in sample.members:
            if member.offset <= at < member.offset + member.size:
                return sample.key
    return None


def is_named(findings: list[Finding], name: str, key: str | None) -> bool:
    """Whether the file is named and no other, and the key if there is one."""
    return {f.file for f in findings} == {name} and (key is None or key in {f.key for f in findings})


def flips(root: Path, count: int, seed: int) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """(flips, flips found and named) by kind of file, and webdataset's verdicts on the tars."""
    draw = random.Random(seed)
    by_kind = {
        kind: sorted(p for p in root.iterdir() if p.suffix == f".{kind}" and p.stat().st_size)
        for kind in KINDS
    }
    sound = {path: deliver(path)[0] for path in by_kind["tar"]}
    kinds = [kind for kind, weight in KINDS.items() for _ in range(weight)]
    done, found, peer = Counter(), Counter(), Counter()
    for number in range(count):
        kind = kinds[number % len(kinds)]
        path = draw.choice(by_kind[kind])
        before = path.read_bytes()
        data, at = bytearray(before), draw.randrange(len(before))
        while kind == "tar" and done[kind] % 3 == 0 and owner(root, path.name, at):
            at = draw.randrange(len(before))
        key = owner(root, path.name, at)
        data[at] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        done[kind] += 1
        if is_named(verify(root).findings, path.name, key):
            found[kind] += 1
        else:
            print(f"NOT FOUND: {path.name}, byte {at}, key {key}", file=sys.stderr)
        if kind == "tar":
            peer[peer_verdict(sound[path], path)] += 1
        path.write_bytes(before)
    return done, found, peer


def cuts(root: Path, name: str) -> tuple[int, int, Counter[str]]:
    """(cuts, cuts found and named, webdataset's verdicts) of a shard at every multiple of 512 bytes."""
    path = root / name
    before, sound = path.read_bytes(), deliver(path)[0]
    done, found, peer = 0, 0, Counter()
    for size in range(0, len(before), 512):
        path.write_bytes(before[:size])
        done += 1
        found += is_named(verify(root).findings, name, None)
        peer[peer_verdict(sound, path)] += 1
    path.write_bytes(before)
    return done, found, peer


def misplacements(root: Path) -> dict[str, tuple[int, int]]:
    """(done, found) for every shard missing, copied under a new name, and every two swapped or made equal."""
    tars = sorted(root.glob("*.tar"))
    counts = {}
    hidden = root.with_name("hidden")

    def check(names: set[str]) -> bool:
        return {finding.file for finding in verify(root).findings} == names

    found = 0
    for path in tars:
        path.rename(hidden)
        found += check({path.name})
        hidden.rename(path)
    counts["missing"] = (len(tars), found)
    found = 0
    for path in tars:
        extra = root / f"{path.name.split('-')[0]}-900000.tar"
        shutil.copy(path, extra)
        found += check({extra.name})
        extra.unlink()
    counts["extra (a copy under a free name)"] = (len(tars), found)
    swapped = copied = 0
    pairs = list(itertools.combinations(tars, 2))
    for one, two in pairs:
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        copied += check({one.name})
        two.write_bytes(first)
        swapped += check({one.name, two.name})
        one.write_bytes(first)
        two.write_bytes(second)
    counts["replaced by a copy of another"] = (len(pairs), copied)
    counts["swapped with another"] = (len(pairs), swapped)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", default="unnamed photos", help="what the photos are, for the report")
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the report (Markdown)")
    options = parser.parse_args()
    with scratch(None) as folder:
        root = make_set(read_pairs(options.photos)[: options.samples], folder, samples_per_shard=10)
        assert verify(root).findings == []
        began = time.monotonic()
        done, found, peer = flips(root, options.flips, options.seed)
        # the first train shard: several samples, several hundred cuts
        cut = next(entry.name for entry in read_manifest(root).splits["train"].shards)
        num_cuts, cuts_found, cut_peer = cuts(root, cut)
        moved = misplacements(root)
        assert verify(root).findings == []
        seconds = time.monotonic() - began
        about = f"{len(list(root.glob('*.tar')))} shards, {tree_bytes(root) / 1e6:.1f} MB"
    rows = [[f"bit flip in .{kind}", str(done[kind]), str(found[kind])] for kind in KINDS]
    rows.append(["**bit flips, all**", str(done.total()), str(found.total())])
    rows.append([f"{cut} cut at every 512 bytes", str(num_cuts), str(cuts_found)])
    rows += [[f"shard {what}", str(total), str(good)] for what, (total, good) in moved.items()]
    verdicts = sorted(peer | cut_peer)
    beside = [[verdict, str(peer[verdict]), str(cut_peer[verdict])] for verdict in verdicts]
    arguments = [
        "PHOTOS",
        "--flips",
        str(options.flips),
        "--samples",
        str(options.samples),
        "--seed",
        str(options.seed),
    ]
    write_report(
        options.out,
        f"""# Damage, and who finds it

Machine: {machine()}. Load average {load()}.
Data: {options.data}; the first {options.samples} pairs and 3 bad rows: {about}.
Command: `{shlex.join(["python", "benchmarks/soak_verify.py", *arguments])}`, {seconds:.0f} s.

`streamgan verify`; found: it names the damaged file and no other, and the key where the damage lies in a
member. Every third flip in a tar lies in a header or in padding, the others anywhere.

{markdown(["damage", "done", "found and named"], rows)}

What webdataset reports while it reads the same damaged tars (iteration with the handler that raises):

{markdown(["webdataset", f"{done['tar']} bit flips in tars", f"{num_cuts} cuts"], beside)}""",
    )
    if found != done or cuts_found != num_cuts or any(total != good for total, good in moved.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
