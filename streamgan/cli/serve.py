"""`streamgan serve`: a page to try models on."""

import os
import tempfile
import time
from pathlib import Path

import click

from streamgan.core.errors import ConfigError

from .options import Command, Count, device_option, max_pixels_option, ready_model
from .output import emit


@click.command(
    cls=Command,
    on_stop="uploads and results are removed",
    short_help="A page in the browser to try models on.",
)
@click.option(
    "--model", "models", multiple=True, metavar="[NAME=]MODEL",
    help="As for colorize; several times for models side by side.  [default: the one that comes along]",
)  # fmt: skip
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: the whole network."
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port to listen on."
)
@device_option
@click.option("--size", type=click.IntRange(16, 4096), help="Short side of the chroma.  [as trained]")
@click.option(
    "--max-mb",
    type=Count(),
    default=50,
    show_default=True,
    help="Largest file that may be uploaded.",
)
@max_pixels_option
@click.option("--json", "as_json", is_flag=True, help="Print the address as one JSON object.")
def serve(
    models: tuple[str, ...], host: str, port: int, device: str, size: int | None, max_mb: int,
    max_pixels: int, as_json: bool,
) -> None:  # fmt: skip
    """Serve a page that colours photos, until Ctrl-C, SIGTERM or SIGHUP. Then what was uploaded is removed.

    Several photos at once become one zip; those who come at the same time see their place in the queue.

    It has no password: with another --host than the default, everybody who reaches the port can use it.

    \b
    streamgan serve
    streamgan serve --model runs/default
    streamgan serve --model soft=runs/a --model vivid=runs/b
    """
    from streamgan.inference.colorizer import Colorizer

    try:
        import gradio  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ConfigError("serve", "gradio is missing", "pip install 'streamgan[web]'") from error

    colorizers = {}
    for word in models or [ready_model()]:
        name, separator, model = word.partition("=")
        if not separator or Path(word).exists():
            name, model = Path(word).resolve().name, word
        if not name or name in colorizers:
            what = f"two models have the name {name!r}" if name else f"{word} has no name before its ="
            raise ConfigError("--model", what, "write --model NAME=MODEL")
        colorizers[name] = Colorizer.load(model, device=device, size=size)

    from streamgan.inference.page import build_page, look
    from streamgan.inference.photo import Limits, allow_pixels

    allow_pixels(max_pixels)
    # No photo outlives the server; a request that is under way may still write.
    with tempfile.TemporaryDirectory(prefix="streamgan-serve-", ignore_cleanup_errors=True) as files:
        # Gradio would keep what its visitors do in their browsers.
        os.environ.update(GRADIO_TEMP_DIR=files, GRADIO_RUN_HISTORY="False")
        page = build_page(colorizers, Path(files), limits=Limits(max_pixels), max_mb=max_mb)
        try:
            page.launch(
                server_name=host, server_port=port, max_file_size=max_mb << 20, quiet=True, share=False,
                prevent_thread_lock=True, enable_monitoring=False, ssr_mode=False, footer_links=[], **look(),
            )  # fmt: skip
        except OSError as error:
            what = f"cannot listen on {host}:{port} ({' '.join(str(error).split())})"
            raise ConfigError("--port", what, "choose another --port or --host") from error
        address = f"http://{host}:{port}"
        text = f"{address} colours photos with {', '.join(colorizers)}; Ctrl-C ends it"
        emit(text, {"address": address, "models": list(colorizers)}, as_json=as_json)
        try:
            while True:  # the server is a thread
                time.sleep(3600)
        finally:
            page.close(verbose=False)
