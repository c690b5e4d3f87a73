"""JSON knows no NaN and no infinity."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """The same for JSON: None stands for floats that are not finite, a list for a tuple."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
