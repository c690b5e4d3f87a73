"""The page of `streamgan serve`: drop photos, see gray and colour under a slider, download the results.

All visitors wait in one queue for the models and are told their place in it; what each has is a `Visit`.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from gradio.themes import Base  # pyright: ignore[reportMissingImports]

from .colorizer import Colorizer
from .comparison import CSS, comparison
from .photo import LIMITS, Limits
from .sifting import FORGET, LEFT_OUT, sift
from .visit import Visit

LIFETIME_S = 3600  # of a visit in which nothing happens, and of uploaded files
TITLE = "streamgan: colour photos"
EXAMPLE = Path(__file__).with_name("example.jpg")  # by Rachel Michetti, CC0; made gray
NO_ANALYTICS: dict[str, Any] = {"analytics_enabled": False}
_BAR = gr.Progress()
_QUEUE: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1, "api_visibility": "private"}


def build_page(
    colorizers: Mapping[str, Colorizer], folder: Path, *, limits: Limits = LIMITS, max_mb: int
) -> gr.Blocks:
    """The page; `launch` it with `look()`. `folder`, the one that Gradio serves, holds what visitors have."""
    given = shutil.copy(EXAMPLE, folder)  # Gradio takes files from few folders
    with gr.Blocks(title=TITLE, delete_cache=(LIFETIME_S, LIFETIME_S), **NO_ANALYTICS) as blocks:
        visit = gr.State(None, time_to_live=LIFETIME_S, delete_callback=_close)
        gr.Markdown(f"# {TITLE}\nPhotos keep their size and their luminance; the model adds the colour.")
        with gr.Row():
            with gr.Column():
                uploads = gr.File(
                    label=f"Photos, {max_mb} MB each at most",
                    file_count="multiple",
                    height=160,
                    elem_id="uploads",
                )
                gr.HTML(LEFT_OUT)
                example = gr.Button("Try an example photo")
            with gr.Column():
                saturation = gr.Slider(
                    0, 2, value=1, step=0.05, label="Saturation (0: gray, 1: as predicted)"
                )
                told = gr.HTML(_told(None), min_height=90)
        chosen = gr.Dropdown(label="Photo", visible=False, interactive=True)
        compared = gr.HTML()
        download = gr.DownloadButton("Download", variant="primary", interactive=False)
        shown = [told, chosen, compared, download]

        def color(
            given: list[str] | None, before: Visit | None, factor: float, bar: gr.Progress = _BAR
        ) -> list[Any]:
            visit = before or Visit(Path(tempfile.mkdtemp(dir=folder)), colorizers, limits)
            visit.keep(given or [])
            for upload in _watched(given or [], bar):
                visit.color(upload, factor)
            return [visit, *_show(visit)]

        def repaint(
            visit: Visit | None, factor: float, upload: str | None, bar: gr.Progress = _BAR
        ) -> list[Any]:
            if visit is not None:
                for one in _watched(list(visit.photos), bar):
                    visit.color(one, factor)
            return _show(visit, upload)

        def look(visit: Visit | None, upload: str | None) -> str:
            return _compare(visit, upload)

        def hold() -> Any:
            return gr.DownloadButton(interactive=False)  # until the results are those of what is set

        held: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        blocks.load(None, js=sift(max_mb))
        gr.on([uploads.clear, example.click], None, js=FORGET)
        uploads.change(hold, None, download, **held).then(
            color, [uploads, visit, saturation], [visit, *shown], show_progress_on=told, **_QUEUE
        )
        saturation.change(hold, None, download, **held).then(
            repaint, [visit, saturation, chosen], shown,
            show_progress_on=told, trigger_mode="always_last", **_QUEUE,
        )  # fmt: skip
        chosen.input(look, [visit, chosen], compared, show_progress="hidden", api_visibility="private")
        example.click(lambda: [given], None, uploads, show_progress="hidden", api_visibility="private")
    return blocks


def look() -> dict[str, Any]:
    """Options of `launch`: fonts of the reader's own system, so the page loads nothing from other hosts."""
    return {
        "theme": Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "css": CSS,
    }


def _close(visit: Visit | None) -> None:
    if visit is not None:
        visit.close()


def _show(visit: Visit | None, upload: str | None = None) -> list[Any]:
    """What was done, the choice of photos, one of them under the slider, and the download."""
    photos = visit.photos if visit else {}
    upload = upload if upload in photos else next(iter(photos), None)
    choices = [(given.name, path) for path, given in photos.items()]
    file = visit.download() if visit else None
    label = f"Download {file.name}" if file else "Download"
    return [
        _told(visit),
        gr.Dropdown(choices=choices, value=upload, visible=len(photos) > 1),
        _compare(visit, upload),
        gr.DownloadButton(label, value=file and str(file), interactive=file is not None),
    ]


def _compare(visit: Visit | None, upload: str | None) -> str:
    given = visit.photos.get(upload or "") if visit else None
    return comparison(given.name, given.views) if given else ""


def _watched(uploads: list[str], bar: Any) -> Iterator[str]:
    return bar.tqdm(uploads, desc="Colouring", unit="photos")


def _told(visit: Visit | None) -> str:
    """What became of the uploads, for people and screen readers."""
    photos, failed = (visit.photos, visit.failed) if visit else ({}, {})
    lines = [
        f"<li>{escape(one.name)}: {escape('; '.join(one.notes))}</li>" for one in photos.values() if one.notes
    ]
    lines += [
        f'<li class="failed">{escape(Path(upload).name)}: not coloured ({escape(reason)})</li>'
        for upload, reason in failed.items()
    ]
    counted = f"{len(photos)} coloured" + (f", {len(failed)} not" if failed else "")
    text = counted if photos or failed else "Drop photos, or try the example."
    return f'<div class="told" role="status"><p>{text}</p><ul>{"".join(lines)}</ul></div>'
