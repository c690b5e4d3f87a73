"""Reading: shard sets, the canonical order of their samples, and the loader that delivers them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loader import Batch, Loader, build_loader

__all__ = ["Batch", "Loader", "build_loader"]


def __getattr__(name: str) -> Any:
    """`streamgan.data.build_loader` without paying for torch when only the format is wanted."""
    if name in __all__:
        from . import loader

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
