"""`streamgan evaluate`: PSNR, SSIM and colourfulness of a run, beside the baselines."""

import click

from .output import emit, table


@click.command(short_help="Score a model beside the trivial baselines.")
@click.argument("run", type=click.Path())
@click.option("--shards", required=True, help="Folder or address of the shard set to score on.")
@click.option("--split", default="test", show_default=True, help="Split to score on.")
@click.option("--checkpoint", default="best", show_default=True, help="best, last, or a step number.")
@click.option("--max-images", type=click.IntRange(min=1), help="Score the first N images.  [default: all]")
@click.option("--size", type=click.IntRange(min=16), help="Crop size in pixels.  [default: as trained]")
@click.option(
    "--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Images a forward pass."
)
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Loader processes.")
@click.option(
    "--gray",
    type=click.Choice(["derive", "twin"]),
    default="derive",
    show_default=True,
    help="Network input: luminance of the colour image, or the set's own gray twin.",
)
@click.option(
    "--cache",
    default="~/.cache/streamgan/shards",
    show_default=True,
    help="Folder for shards at an address, or none.",
)
@click.option(
    "--cache-gb",
    type=click.FloatRange(min=0, min_open=True),
    default=50.0,
    show_default=True,
    help="GB that the cache holds at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def evaluate(
    run: str, shards: str, split: str, checkpoint: str, max_images: int | None, size: int | None, batch: int,
    workers: int, gray: str, cache: str, cache_gb: float, as_json: bool,
) -> None:  # fmt: skip
    """Score the generator of RUN (a run or checkpoint folder, or a weights file) on a split of a shard set.

    \b
    streamgan evaluate runs/default --shards shards/photos --split test --json
    """
    from streamgan.inference.weights import find_weights, load_weights
    from streamgan.train.evaluate import evaluate_weights

    weights = load_weights(find_weights(run, checkpoint))
    result = evaluate_weights(
        weights.generator, weights.head, shards, split, num_images=max_images, size=size or weights.size,
        batch=batch, workers=workers, gray="twin" if gray == "twin" else None,
        cache=cache, cache_gb=cache_gb,
    )  # fmt: skip
    columns = ("psnr", "ssim", "cf", "dcf", "chroma_ratio", "ab_error", "psnr_at_cf50")
    rows = {"model": result["model"], **result["baselines"]}
    text = table(
        [f"{split}, N = {result['num_images']}", *columns],
        [[name, *(f"{scores[column]:.4g}" for column in columns)] for name, scores in rows.items()],
    )
    text += f"\n{result['protocol']}\nweights: {weights.path} (step {weights.step})"
    emit(text, {"weights": str(weights.path), "step": weights.step, **result}, as_json=as_json)
