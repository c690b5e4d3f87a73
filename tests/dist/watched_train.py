"""Train, and write what every rank has seen: `accelerate launch watched_train.py OUT POISON KEY=VALUE ...`.

OUT/rank-N.json lists, by step, the sha256 of this rank's weights before that step (and after the last), and
how many networks skipped it. POISON is `none` or RANK:STEP:NETWORK,...: there one gradient of that network
is NaN, on that rank alone.
"""

import json
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from streamgan.core.config import load_config
from streamgan.train import build, loop
from streamgan.train.step import GanStep


def digest(tensors: Iterable[Tensor]) -> str:
    """sha256 over the bytes of tensors."""
    found = sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


class WatchedStep(GanStep):
    """A step that notes the weights it began with, and poisons its gradients where told to."""

    poison: frozenset[tuple[int, int, str]] = frozenset()
    seen: list[dict] = []  # noqa: RUF012  (of the only run of this process)
    last: "WatchedStep"

    def look(self) -> dict:
        modules = {
            "generator": self._networks.plain_generator,
            "discriminator": self._networks.plain_discriminator,
            "ema": self._networks.ema,
        }
        found = {name: digest(module.parameters()) for name, module in modules.items() if module is not None}
        states = [module.state_dict().values() for module in modules.values() if module is not None]
        return {"rank": self._accelerator.process_index, **found, "all": digest(t for s in states for t in s)}

    def __call__(self, *batch, step, **more):
        WatchedStep.last = self
        row = {"step": step, **self.look()}
        hooks = []
        for name in ("generator", "discriminator"):
            if (row["rank"], step, name) in self.poison:
                parameter = next(getattr(self._networks, f"plain_{name}").parameters())
                hooks.append(parameter.register_hook(lambda gradient: gradient * float("nan")))
        scalars = super().__call__(*batch, step=step, **more)
        for hook in hooks:
            hook.remove()
        self.seen.append({**row, "skipped": int(scalars["grad/skipped"])})
        return scalars


if __name__ == "__main__":
    out, poison, *words = sys.argv[1:]
    for place in [] if poison == "none" else poison.split(","):
        rank, step, network = place.split(":")
        WatchedStep.poison |= {(int(rank), int(step), network)}
    build.GanStep = WatchedStep
    loop.train(load_config(None, words))
    last = WatchedStep.last.look()
    Path(out).mkdir(parents=True, exist_ok=True)
    rows = [*WatchedStep.seen, last]
    (Path(out) / f"rank-{last['rank']}.json").write_text(json.dumps(rows))
