"""Reading: shard sets, the canonical order of their samples, and the loader that delivers them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loader import Loader, build_loader
    from .reading import Weighted
    from .workers.batch import Batch

__all__ = ["Batch", "Loader", "Weighted", "build_loader"]
_MODULES = {
    "Batch": "workers.batch",
    "Loader": "loader",
    "Weighted": "reading",
    "build_loader": "loader",
}


def __getattr__(name: str) -> Any:
    """`streamgan.data.build_loader` without paying for torch when only the format is wanted."""
    if name in __all__:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
