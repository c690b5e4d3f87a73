"""A photo before and after, under a slider: HTML with images, and a range input that keyboards reach too."""

from html import escape
from urllib.parse import quote

from .visit import View

# The range lies over the images; the line and its knob, which it moves, are drawn. Gradio's links to the
# uploads are hidden: what is to be downloaded are the results.
CSS = """
.compare { display: flex; flex-wrap: wrap; gap: 1rem; }
.compare figure { flex: 1 1 20rem; margin: 0 auto; min-width: 0; }
.compare figcaption { padding-top: .25rem; text-align: center; }
.compare .pair { position: relative; overflow: hidden; margin: 0 auto; border-radius: 4px; }
.compare .pair:focus-within { outline: 3px solid #2563eb; outline-offset: 2px; }
.compare img { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; }
.compare .color { clip-path: inset(0 0 0 var(--at)); }
.compare .pair::before { content: ""; position: absolute; z-index: 1; top: 0; bottom: 0; left: var(--at);
  width: 2px; margin-left: -1px; background: #fff; box-shadow: 0 0 3px #000; }
.compare .pair::after { content: "\\25C2\\00A0\\25B8"; position: absolute; z-index: 1; top: 50%;
  left: var(--at); transform: translate(-50%, -50%); padding: .5rem; border-radius: 1rem;
  background: #fff; color: #111; box-shadow: 0 0 3px #000; line-height: 1; white-space: nowrap; }
.compare input { position: absolute; z-index: 2; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; touch-action: pan-y; appearance: none; }
.compare input::-webkit-slider-thumb { appearance: none; width: 1px; height: 100%; }
.compare input::-moz-range-thumb { width: 1px; height: 100%; border: 0; }
#uploads .download { display: none; }
:is(.told, .left-out) ul { margin: 0; padding-left: 1.2rem; }
:is(.told, .left-out) .failed { color: #b91c1c; }
.dark :is(.told, .left-out) .failed { color: #fca5a5; }
"""
_MOVE = "this.parentNode.style.setProperty('--at', this.value + '%')"


def comparison(title: str, views: dict[str, View]) -> str:
    """A figure for each model: gray on the left of the slider, colour on its right."""
    return f'<div class="compare">{"".join(_figure(title, name, view) for name, view in views.items())}</div>'


def _figure(title: str, model: str, view: View) -> str:
    title, model, (width, height) = escape(title), escape(model), view.size
    label = f"{title}, coloured by {model}: per cent of it that are shown gray; arrow keys move the border"
    wide = f"min(100%, {width}px, {80 * width / height:.1f}vh)"  # a tall photo is to fit on the screen
    style = f"--at: 50%; aspect-ratio: {width} / {height}; width: {wide}"
    return (
        f'<figure><div class="pair" style="{style}">'
        f'<img src="{_address(view.gray)}" alt="{title}, gray">'
        f'<img class="color" src="{_address(view.color)}" alt="{title}, coloured by {model}">'
        f'<input type="range" min="0" max="100" value="50" aria-label="{label}" oninput="{_MOVE}"></div>'
        f"<figcaption>gray | {model}</figcaption></figure>"
    )


def _address(path: object) -> str:
    """Where Gradio serves a file of its folder, below the address of the page."""
    return f"gradio_api/file={quote(str(path))}"
