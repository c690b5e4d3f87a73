"""The page of `streamgan serve`: drop a photo, see gray and colour under a slider, one column a model.

The chroma of a photo is predicted once and kept for the session, so the saturation moves without the
generator. What a person gets to download is what `streamgan colorize` would write as PNG.
"""

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
import numpy as np
from gradio.themes import Base  # pyright: ignore[reportMissingImports]
from PIL import Image

from .colorizer import Chroma, Colorizer
from .photo import Photo, load_photo
from .saving import save_photo, to_image

VIEW_PIXELS = 1600  # long side of what the browser is shown
LIFETIME_S = 3600  # of a session that is not used, and of uploaded files
TITLE = "streamgan: colour a photo"
NO_ANALYTICS: dict[str, Any] = {"analytics_enabled": False}


@dataclass
class Session:
    """A photo and what each model predicted for it; its downloads lie in `folder`."""

    photo: Photo
    stem: str
    folder: Path
    chroma: dict[str, Chroma] = field(default_factory=dict)
    gray: dict[str, Image.Image] = field(default_factory=dict)  # the left half of each comparison

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _close(session: Session | None) -> None:
    if session is not None:
        session.close()


class Page:
    """What the page does, apart from how it looks. One request at a time uses the models.

    Downloads are written below `folder`.
    """

    def __init__(self, colorizers: Mapping[str, Colorizer], folder: Path):
        self._colorizers, self._folder = colorizers, folder
        self._lock = threading.Lock()

    def open(self, path: str | None, before: Session | None) -> Session | None:
        """Predict the chroma of an uploaded file; gr.Error, shown on the page, if it is no photo."""
        if path is None:
            _close(before)
            return None
        try:
            photo = load_photo(Path(path), kind="PNG")
        except Exception as error:  # whatever a parser meets in foreign bytes
            reason = " ".join(str(error).split()).replace(str(path), Path(path).name)
            what = f"{Path(path).name}: not a photo that can be read ({reason})"
            raise gr.Error(what, print_exception=False) from error
        _close(before)
        session = Session(photo, Path(path).stem, Path(tempfile.mkdtemp(dir=self._folder)))
        with self._lock:
            for name, colorizer in self._colorizers.items():
                chroma = session.chroma[name] = colorizer.predict([photo])[0]
                session.gray[name] = _view(photo, colorizer.paint(photo, _without(chroma)))
        return session

    def show(self, session: Session | None, saturation: float) -> Iterator[Any]:
        """For each model: (gray, colour) to compare, and the file to download."""
        for name, colorizer in self._colorizers.items():
            if session is None:
                yield None
                yield gr.DownloadButton(value=None, interactive=False)
                continue
            with self._lock:
                colorizer.saturation = saturation
                rgb_HW3 = colorizer.paint(session.photo, session.chroma[name])
            path = session.folder / f"{session.stem}-{name}.png"
            with open(path, "wb") as file:
                save_photo(session.photo, rgb_HW3, file, "PNG")
            yield session.gray[name], _view(session.photo, rgb_HW3)
            yield gr.DownloadButton(value=str(path), interactive=True)


def _without(chroma: Chroma) -> Chroma:
    return chroma._replace(chroma_12hw=chroma.chroma_12hw * 0)


def _view(photo: Photo, rgb_HW3: np.ndarray) -> Image.Image:
    image = to_image(photo, rgb_HW3).convert("RGB")
    image.thumbnail((VIEW_PIXELS, VIEW_PIXELS))
    return image


def build_page(colorizers: Mapping[str, Colorizer], folder: Path) -> gr.Blocks:
    """The page; `launch` it with `theme()`. `folder` holds what is offered for download."""
    page = Page(colorizers, folder)
    with gr.Blocks(title=TITLE, delete_cache=(LIFETIME_S, LIFETIME_S), **NO_ANALYTICS) as blocks:
        session = gr.State(None, time_to_live=LIFETIME_S, delete_callback=_close)
        gr.Markdown(f"# {TITLE}\nThe photo keeps its size and its luminance; the model adds the colour.")
        with gr.Row():
            upload = gr.File(label="Photo (JPEG, PNG, TIFF, WebP)", file_types=["image"], height=140)
            saturation = gr.Slider(0, 2, value=1, step=0.05, label="Saturation (0: gray, 1: as predicted)")
        results: list[Any] = []
        with gr.Row():
            for name in colorizers:
                with gr.Column(min_width=320):
                    results.append(gr.ImageSlider(label=f"gray | {name}", type="pil", interactive=False))
                    results.append(gr.DownloadButton(f"Download {name} (PNG)", interactive=False))

        def show(session: Session | None, saturation: float) -> list[Any]:
            return list(page.show(session, saturation))

        upload.change(page.open, [upload, session], [session]).success(show, [session, saturation], results)
        saturation.change(show, [session, saturation], results, trigger_mode="always_last")
    return blocks


def theme() -> Base:
    """Fonts of the reader's own system: the page loads nothing from other hosts."""
    return Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
