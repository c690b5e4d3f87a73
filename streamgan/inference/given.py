"""What a program gives to be coloured, as a Photo: a path, an image of PIL's, an array."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from streamgan.core.errors import ConfigError, DataError, file_error, in_one_line

from .photo import MAX_PIXELS, Photo, check_pixels, load_photo, read_photo

Given = str | Path | Image.Image | np.ndarray
_TODO = "give a path, an image of PIL's, an array of uint8 or uint16, (H, W) or (H, W, 3), or a list of these"


def photo_of(given: Any) -> Photo:
    """ConfigError if it is no photo, DataError if it cannot be read."""
    if isinstance(given, np.ndarray):
        shown = f"an array of {given.dtype}, {given.shape}"
        fits = given.ndim == 2 or (given.ndim == 3 and given.shape[2] == 3)
        if given.dtype not in (np.uint8, np.uint16) or not fits or not given.size:
            raise ConfigError("Colorizer", f"cannot colour this (got {shown})", _TODO)
        return Photo(given)
    if not isinstance(given, str | Path | Image.Image):
        name = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
        raise ConfigError("Colorizer", f"cannot colour this (got {name})", _TODO)
    try:
        if not isinstance(given, Image.Image):
            return load_photo(Path(given), kind="PNG")
        check_pixels(given, MAX_PIXELS)
        return read_photo(given)
    except FileNotFoundError as error:
        raise DataError(given, "no such file", "give a photo") from error
    except OSError as error:
        if error.errno is not None:
            raise file_error(error, given, what="cannot be read") from error
        raise _unread(given, error) from error
    except Exception as error:  # whatever a parser meets in foreign bytes
        raise _unread(given, error) from error


def _unread(given: str | Path | Image.Image, error: Exception) -> DataError:
    where = "an image" if isinstance(given, Image.Image) else given
    what = f"not a photo that can be read ({in_one_line(error)})"
    return DataError(where, what, "look at it with another program")
