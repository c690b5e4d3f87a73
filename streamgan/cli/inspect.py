"""`streamgan inspect`: what is in a shard set, and a contact sheet of some of its pairs."""

from typing import TYPE_CHECKING, Any

import click

from .options import Command, given
from .output import amount, emit, table

if TYPE_CHECKING:
    from streamgan.data.inspect import Summary

_SHOWN_SIZES = 10  # lines of the table of image sizes


@click.command(cls=Command, short_help="Show what is in a shard set, with a contact sheet.")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--out", type=click.Path(dir_okay=False), help="Write a contact sheet here, as PNG.")
@click.option(
    "--pairs", type=click.IntRange(1, 1000), default=24, show_default=True, help="Pairs on the sheet."
)
@click.option("--split", show_default="all", help="Look at this split alone.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice of samples.")
@click.option("--json", "as_json", is_flag=True, show_default=True, help="One JSON object on stdout.")
def inspect(folder, out, pairs, split, seed, as_json):
    """Show counts, bytes, image sizes, rejected rows, options and source of the shard set in DIR.

    With --out, draws random pairs (gray | colour). Reads the indexes and a few thousand samples, not all
    bytes: that is `streamgan verify`. DIR may be an address; there it reads a hundred samples.

    \b
    Example:
      streamgan inspect shards/photos --out sheet.png --pairs 24
    """
    if given("pairs") and not out:
        raise click.UsageError("--pairs is for the sheet; name it with --out")
    from streamgan.core.errors import ConfigError
    from streamgan.core.storage.address import redacted
    from streamgan.data.inspect import choose, write_sheet
    from streamgan.data.inspect import inspect as summarise

    if out and not out.lower().endswith(".png"):
        raise ConfigError("--out", f"does not end in .png (got {out})", "the sheet is a PNG")
    summary = summarise(folder, split=split, seed=seed)
    value = _value(redacted(str(folder)), summary)
    lines = _text(redacted(str(folder)), summary)
    if out:
        places = list(choose(folder, split, count=pairs, seed=seed))
        write_sheet(folder, out, places)
        pictured = [{"split": p.split, "shard": p.shard, "key": p.sample.key} for p in places]
        value |= {"sheet": str(out), "pairs": pictured}
        lines += f"\n\n{out}: {len(places)} pairs, gray | colour"
    emit(lines, value, as_json=as_json)


def _value(folder: str, summary: "Summary") -> dict[str, Any]:
    manifest = summary.manifest
    ways = ("min", "median", "max")
    return {
        "folder": folder,
        "digest": manifest.digest,
        "samples": summary.samples,
        "splits": summary.splits,
        "color_bytes": summary.color_bytes and dict(zip(ways, summary.color_bytes, strict=True)),
        "gray_bytes": summary.gray_bytes and dict(zip(ways, summary.gray_bytes, strict=True)),
        "sizes": [
            {"width": width, "height": height, "samples": count}
            for (width, height), count in summary.sizes.most_common()
        ],
        "sizes_of": summary.sized,
        "quarantine": manifest.quarantine["reasons"],
        "options": manifest.options,
        "source": manifest.source,
        "sheet": None,
        "pairs": [],
    }


def _text(folder: str, summary: "Summary") -> str:
    manifest = summary.manifest
    parts = [f"{folder}: digest {manifest.digest}"]
    counts = [
        [name, *(f"{split[key]}" for key in ("samples", "shards")), *(_mb(split[key]) for key in _BYTES)]
        for name, split in summary.splits.items()
    ]
    if len(counts) > 1:
        sums = {key: sum(split[key] for split in summary.splits.values()) for key in (*_COUNTS, *_BYTES)}
        counts.append(["all", *(f"{sums[key]}" for key in _COUNTS), *(_mb(sums[key]) for key in _BYTES)])
    parts.append(table(["split", "samples", "shards", "MB", "colour MB", "gray MB"], counts))
    kilobytes = [
        [kind, *(f"{size / 1e3:.1f}" for size in sizes)]
        for kind, sizes in (("colour", summary.color_bytes), ("gray", summary.gray_bytes))
        if sizes
    ]
    if kilobytes:
        parts.append(table(["KB per image", "min", "median", "max"], kilobytes))
        parts.append(_size_table(summary))
    reasons = [[reason, str(count)] for reason, count in manifest.quarantine["reasons"].items()]
    parts.append(table(["rejected", "rows"], reasons) if reasons else "rejected: none")
    options = [[key, _words(value)] for key, value in manifest.options.items() if value is not None]
    if options:
        parts.append(table(["option", "value"], options))
    return "\n\n".join([*parts, _source_line(manifest.source)])


_COUNTS = ("samples", "shards")
_BYTES = ("bytes", "color_bytes", "gray_bytes")


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _words(value: Any) -> str:
    """An option for people; the ranges of hashes that make the splits as their shares."""
    if isinstance(value, dict) and "ends" in value and "of" in value:
        begins = [0, *value["ends"].values()]
        shares = [
            f"{name} {(end - begin) / value['of']:.1%}"
            for begin, (name, end) in zip(begins, value["ends"].items(), strict=False)
        ]
        return f"{', '.join(shares)} by {value.get('by')}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    return str(value)


def _size_table(summary: "Summary") -> str:
    common = summary.sizes.most_common(_SHOWN_SIZES)
    rows = [[f"{w} x {h}", str(count), f"{count / summary.sized:.1%}"] for (w, h), count in common]
    if rest := summary.sized - sum(count for _, count in common):
        rows.append([f"{len(summary.sizes) - len(common)} others", str(rest), f"{rest / summary.sized:.1%}"])
    for name, sides in (("width", 0), ("height", 1)):
        values = sorted(size[sides] for size in summary.sizes.elements())
        rows.append(
            [f"{name} min, median, max", "", f"{values[0]}, {values[len(values) // 2]}, {values[-1]}"]
        )
    of = "" if summary.sized == summary.samples else f" (of {summary.sized} samples, by chance)"
    return table([f"image size{of}", "samples", "share"], rows)


def _source_line(source: dict[str, Any]) -> str:
    files = source["files"]
    rows, size = (sum(file.get(key, 0) for file in files) for key in ("rows", "bytes"))
    names = " ... ".join(dict.fromkeys([files[0]["name"], files[-1]["name"]])) if files else ""
    count = f"{amount(len(files), 'file')}, {amount(rows, 'row')}"
    if source.get("kind") == "foreign":
        count = amount(len(files), "tar")
    elif files and "listing_sha256" in files[0]:
        count = f"{amount(len(files), 'folder')} of images, {amount(rows, 'row')}"
    return f"source: {count}, {size / 1e6:.1f} MB: {names}"
