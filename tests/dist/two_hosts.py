"""Two hosts on one machine: network namespaces with an address each, joined by a cable that can be cut.

    python tests/dist/two_hosts.py SHARDS OUT      (as root, with `ip` of iproute2)

Trains through launch/accelerate/multi_node.yaml, one process a host: `OUT/whole` without trouble; `OUT/cut`
with the cable cut in mid-run, when both sides have to end by themselves, and continued afterwards. Prints
one JSON object: exit codes, seconds from the cut to the end of both sides, the step of the last checkpoint.
Ends with 77 where namespaces cannot be made.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from training import ACCELERATE, ON_CPU, ROOT, settings

from streamgan.train.checkpoint import list_checkpoints

ADDRESSES = ("192.0.2.1", "192.0.2.2")  # for documentation (RFC 5737), and in the namespaces alone
CABLE = "cable"
TIMEOUT_S = 10
STEPS, CUT_AFTER = 20, 12
CANNOT = 77


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Hosts:
    """Names of two namespaces."""

    names: tuple[str, str]

    def start(self, rank: int, *words: str) -> "subprocess.Popen[str]":
        """One host's command of a run on both."""
        options = ["--config_file", str(ROOT / "launch/accelerate/multi_node.yaml"), "--num_processes", "2"]
        options += ["--machine_rank", str(rank), "--main_process_ip", ADDRESSES[0], "--mixed_precision", "no"]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[rank], *ACCELERATE, *options, str(ROOT / "launch/train.py"), *words],
            env={**os.environ, **ON_CPU, "GLOO_SOCKET_IFNAME": CABLE},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def cable(self, state: str) -> None:
        ip("-n", self.names[0], "link", "set", CABLE, state)


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """The namespaces, gone afterwards. Exit code 77, and one line why, where they cannot be made."""
    hosts = Hosts((f"streamgan-{os.getpid()}-a", f"streamgan-{os.getpid()}-b"))
    try:
        try:
            for name in hosts.names:
                ip("netns", "add", name)
            first, second = hosts.names
            ip("link", "add", CABLE, "netns", first, "type", "veth", "peer", "name", CABLE, "netns", second)
            for name, address in zip(hosts.names, ADDRESSES, strict=True):
                ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE)
                for interface in ("lo", CABLE):
                    ip("-n", name, "link", "set", interface, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            why = str(getattr(error, "stderr", "") or error).strip()
            print(
                f"two_hosts: no network namespaces here ({why}); run as root on Linux with iproute2",
                file=sys.stderr,
            )
            raise SystemExit(CANNOT) from None
        yield hosts
    finally:
        for name in hosts.names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def run_to_end(hosts: Hosts, words: list[str]) -> dict:
    """Exit codes and last words of both sides."""
    sides = [hosts.start(rank, *words) for rank in (0, 1)]
    said = [side.communicate(timeout=200)[1] for side in sides]
    return {"codes": [side.returncode for side in sides], "said": [text[-3000:] for text in said]}


def run_and_cut(hosts: Hosts, words: list[str]) -> dict:
    """The same with the cable cut after some steps; how long both sides took to end."""
    sides = [hosts.start(rank, *words) for rank in (0, 1)]
    try:
        assert sides[0].stderr
        for line in sides[0].stderr:
            if line.startswith(f"step {CUT_AFTER}/"):
                break
        hosts.cable("down")
        began = time.monotonic()
        said = [side.communicate(timeout=200)[1] for side in sides]
        seconds = time.monotonic() - began
    finally:
        for side in sides:
            side.kill()
        hosts.cable("up")
    return {
        "codes": [side.returncode for side in sides],
        "seconds": seconds,
        "said": [text[-3000:] for text in said],
    }


def main() -> None:
    shards, out = (Path(word) for word in sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # namespaces outlive the process that made them
    with two_hosts() as hosts:
        words = [f"run.steps={STEPS}", "run.checkpoint_every=5", f"run.timeout_s={TIMEOUT_S}"]
        whole = run_to_end(hosts, settings(shards, out / "whole", *words))
        cut = run_and_cut(hosts, settings(shards, out / "cut", *words, "run.steps=100000"))
        saved = list_checkpoints(out / "cut")[-1].step
        goal = saved + 5
        continued = run_to_end(hosts, settings(shards, out / "cut", *words, f"run.steps={goal}"))
    print(json.dumps({"whole": whole, "cut": cut, "saved": saved, "goal": goal, "continued": continued}))


if __name__ == "__main__":
    main()
