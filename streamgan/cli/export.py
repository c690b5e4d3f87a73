"""`streamgan export`: a model for others, to share, to fine-tune or to run without streamgan."""

from pathlib import Path

import click

from streamgan.core.errors import ConfigError

from .options import Command, Number
from .output import emit


@click.command(
    cls=Command,
    on_stop="nothing was written; the same command tries again",
    short_help="Export a model: bundle, safetensors, ONNX or torch.export.",
)
@click.argument("run", type=click.Path())
@click.option(
    "--to", "kind",
    type=click.Choice(["bundle", "safetensors", "onnx", "torch"]),
    required=True,
    help="bundle: a folder; the others: one file.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file or folder to make.")
@click.option(
    "--checkpoint", default="best", show_default=True, help="best, last, or a step number (of a run)."
)
@click.option("--half", is_flag=True, help="Weights as float16, half the size (bundle, safetensors).")
@click.option(
    "--size", type=click.IntRange(16, 4096), help="Short side at which colorize is to work.  [as trained]"
)
@click.option(
    "--saturation", type=Number(min=0, max=10), help="Factor on the chroma that colorize is to use.  [1]"
)
@click.option(
    "--data-note", metavar="TEXT", help="For the card: whose photos it was trained on, and on what terms."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def export(
    run: str, kind: str, out: Path, checkpoint: str, half: bool, size: int | None, saturation: float | None,
    data_note: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Export the generator of RUN (a run, checkpoint or bundle folder, a weights file, or ORG/NAME).

    A bundle has weights, configuration, validation figures, model card and licence, and the networks for
    fine-tuning; `--model` and `run.init_from` take it, and `hf upload ORG/NAME PATH` shares it. ONNX and
    torch.export take images of any size; the file appears if it gives what the network gives.

    \b
    streamgan export runs/default --to bundle --out old-photos
    streamgan export runs/default --to onnx --out model.onnx
    """
    from streamgan.core.storage.files import atomic_write
    from streamgan.inference.bundle import AS_IT_IS, Form, formed, refuse_existing, write_bundle
    from streamgan.inference.weights import find_weights, load_weights

    form = Form(half, size, saturation)
    if form != AS_IT_IS and kind in ("onnx", "torch"):
        what = f"are for a bundle or safetensors (got --to {kind})"
        raise ConfigError("--half, --size and --saturation", what, "leave them out")
    if data_note is not None and kind != "bundle":
        raise ConfigError("--data-note", f"is for the card of a bundle (got --to {kind})", "leave it out")
    weights = load_weights(find_weights(run, checkpoint))
    refuse_existing(out)
    result = {}
    if kind == "bundle":
        write_bundle(weights, out, form, data_note=data_note)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == "safetensors":
            content = formed(weights.path, form)
            with atomic_write(out) as file:
                file.write(content if isinstance(content, bytes) else content.read_bytes())
        else:
            from streamgan.inference.export import export_onnx, export_torch

            result = (export_onnx if kind == "onnx" else export_torch)(weights, out)
    text = f"{out}: step {weights.step}"
    if result:
        sizes = ", ".join(result["differences"])
        text += f", differs from the network by at most {result['max_difference']:.2g} (at {sizes})"
    if kind == "torch":
        text += f'\nfrom Python: torch.export.load("{out}").module(check_guards=False)'
    emit(
        text, {"out": str(out), "weights": str(weights.path), "step": weights.step, **result}, as_json=as_json
    )
