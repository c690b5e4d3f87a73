"""What the options of a loader may be: a wrong one is a ConfigError, not a hang or an empty batch."""

import math
import reprlib
from typing import Any, Literal, get_args

import numpy as np

from streamgan.core.errors import ConfigError
from streamgan.data.order.canonical import Reshuffle

GrayMode = Literal["derive", "twin"]
OnBad = Literal["raise", "substitute"]

_NUMBERS = {  # least and most, both included
    "batch": (1, 2**20),
    "size": (1, 2**14),
    "workers": (0, 1024),
    "seed": (0, 2**63 - 1),
    "world": (1, 2**20),
    "rank": (0, 2**20),
    "node_ranks": (1, 2**20),
    "lanes": (1, 2**20),
    "window": (1, 2**40),
    "start_step": (0, 2**48),
    "stop_step": (0, 2**48),
    "epochs": (0, 2**48),
    "max_samples": (1, 2**48),
    "num_images": (1, 2**48),
    "max_bad": (0, 2**48),
}
_NONE_MEANS_DEFAULT = {
    "node_ranks", "lanes", "window", "stop_step", "epochs", "max_samples", "num_images", "weight",
}  # fmt: skip
_AMOUNTS = {"cache_gb", "stall_s", "weight"}
_WORDS = {
    "gray": (*get_args(GrayMode), None),
    "reshuffle": get_args(Reshuffle),
    "on_bad": get_args(OnBad),
}


def check_options(**options: Any) -> None:
    """ConfigError if one of a loader's options, given by name, makes no sense; others have no limits."""
    for name, value in options.items():
        if value is None and name in _NONE_MEANS_DEFAULT:
            continue
        if name in _WORDS:
            if value not in _WORDS[name]:
                known = ", ".join(map(str, _WORDS[name]))
                raise ConfigError(name, f"unknown (got {value!r})", f"choose one of {known}")
        elif name in _NUMBERS:
            _check_number(name, value)
        elif name in _AMOUNTS and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ConfigError(name, f"must be a number above 0 (got {value!r})", "choose another one")


def _check_number(name: str, value: Any) -> None:
    least, most = _NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        what = f"must be a whole number from {least} to {most} (got {reprlib.repr(value)})"
        raise ConfigError(name, what, "choose another one")
