"""A comparison as a Markdown page. The columns follow from the scores: a new metric needs no line here.

Known scores come first and by their usual names; whatever else every table is given follows by its own.
"""

import math
from typing import Any

from streamgan.core.logs import interval_text

COLUMNS = {  # score: heading
    "psnr": "PSNR",
    "psnr_gain": "gain",
    "ssim": "SSIM",
    "cf": "CF",
    "dcf": "dCF",
    "chroma_ratio": "chroma ratio",
    "ab_error": "ab error",
    "psnr_at_cf50": "PSNR at CF50",
    "saturation_at_cf50": "s at CF50",
    "psnr_legacy": "PSNR, range bug",
}
# In the JSON alone: pooled or constant over the rows, or said in another column.
LEFT_OUT = {"loss", "psnr_pooled", "cf_truth", "num_images", "psnr_gray", "psnr_gain_95"}
FORMATS = {"ssim": ".4f", "chroma_ratio": ".3f", "saturation_at_cf50": ".2f"}
NOTES = """\
Scores are of the averaged weights (EMA) after the last step. Minutes are those of the training steps;
validation and start-up come on top. Gain: PSNR over that of gray, and half of its 95% interval over the
photos; another seed of the training adds to that. PSNR at CF50: the predicted colour scaled by s until its
mean colourfulness is half of the truth's; more than the PSNR of gray means that the colour is right. PSNR,
range bug: predictions in [0, 1] against targets in [-1, 1], as the source paper was scored; it judges no
model."""


def score_columns(rows: list[dict[str, Any]]) -> list[str]:
    """Names of the scores to show: known ones in their order, then all other numbers that a row has."""
    have = {name: None for row in rows for name, value in row["scores"].items() if _is_number(value)}
    known = [name for name in COLUMNS if name in have]
    return known + [name for name in have if name not in COLUMNS and name not in LEFT_OUT]


def markdown(comparison: dict[str, Any]) -> str:
    """The page: scores, saturation sweep, what failed, protocol and circumstances."""
    rows = comparison["rows"]
    scored = [row for row in rows if row["scores"]]
    names = score_columns(scored)
    head = ["", "parameters", "steps", "images", "minutes", *(COLUMNS.get(name, name) for name in names)]
    body = [
        [
            row["name"] + (" (failed)" if row.get("error") else ""),
            *_cost(row),
            *(_score(row["scores"], name) for name in names),
        ]
        for row in rows
    ]
    parts = [f"# Comparison: {comparison['budget']} per row", _table(head, body), NOTES]
    if sweep := _sweep(scored):
        parts += ["## Saturation sweep", "PSNR (colourfulness) with the predicted colour scaled by s.", sweep]
    if failed := [f"- {row['name']}: {row['error']}" for row in rows if row.get("error")]:
        parts += ["## Failed", "\n".join(failed)]
    parts += [
        "## Protocol",
        comparison["protocol"] or "Nothing has been scored yet.",
        _circumstances(comparison),
    ]
    return "\n\n".join(parts) + "\n"


def _cost(row: dict[str, Any]) -> list[str]:
    if row["kind"] == "baseline":
        return ["", "", "", ""]
    parameters = row["parameters"]
    return [
        "-" if parameters is None else f"{parameters / 1e6:.2f} M",
        _count(row["steps"]),
        _count(row["images"]),
        _cell(row["minutes"], ".1f"),
    ]


def _sweep(rows: list[dict[str, Any]]) -> str:
    curves = {row["name"]: row["scores"]["sweep"] for row in rows if row["scores"].get("sweep")}
    if not curves:
        return ""
    first = next(iter(curves.values()))
    head = ["s", *(f"{saturation:g}" for saturation in first["saturation"])]
    body = [
        [name, *(f"{psnr:.2f} ({cf:.0f})" for psnr, cf in zip(curve["psnr"], curve["cf"], strict=True))]
        for name, curve in curves.items()
    ]
    return _table(head, body)


def _circumstances(comparison: dict[str, Any]) -> str:
    rows = comparison["rows"]
    machines = sorted({row["machine"] for row in rows if row.get("machine")})
    loads = [row["load"] for row in rows if row.get("load") is not None]
    told = [f"Shards: {comparison['shards']} (digest {comparison['shards_digest'][:12]})", *machines]
    if loads:
        told.append(f"load average when the rows began {min(loads):.1f} to {max(loads):.1f}")
    return "; ".join(told) + "."


def _table(head: list[str], body: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *body])


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _score(scores: dict[str, Any], name: str) -> str:
    value = scores.get(name)
    if name == "psnr_gain" and value is not None and math.isfinite(value):
        return interval_text(value, scores.get("psnr_gain_95"))
    return _cell(value, FORMATS.get(name, ".2f"))


def _cell(value: float | None, spec: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, spec)
