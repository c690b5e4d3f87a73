"""streamgan: stream large photo sets into colorization GANs, exactly resumable on any number of GPUs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamgan.inference.colorizer import Colorizer

__version__ = "0.1.0"
__all__ = ["Colorizer", "__version__"]


def __getattr__(name: str) -> Any:
    """`streamgan.Colorizer`, imported when it is asked for: torch is heavy."""
    if name == "Colorizer":
        from streamgan.inference.colorizer import Colorizer

        return Colorizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
