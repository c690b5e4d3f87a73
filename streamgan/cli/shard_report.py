"""What `streamgan shard` says at its end: samples, bad rows, changes, what was passed over."""

from collections.abc import Mapping
from typing import Any

from .output import amount, emit

_CHANGES = {
    "16_bit": "cut from 16 bits per channel to 8",
    "alpha": "freed of transparency that hid nothing",
    "bilevel": "made gray from black and white",
    "cmyk": "made RGB from CMYK",
    "metadata": "freed of metadata that readers refuse",
    "orientation": "turned upright, as its EXIF or XMP says",
    "palette": "made RGB from a palette",
    "resized": "made smaller",
    "tiff": "made PNG or JPEG from TIFF",
    "ycbcr": "made RGB from YCbCr",
}


def report_part(out: str, result: Any, as_json: bool) -> None:
    text = f"{out}: part {result.part} is complete ({amount(result.units, 'unit')}, {result.made} made "
    text += f"by this run); when all parts are: streamgan shard --out {out} --finish"
    summary = {"out": str(out), "part": str(result.part), "units": result.units, "made": result.made}
    summary |= {"passed_over": dict(result.passed), "seconds": round(result.seconds, 3)}
    emit("\n".join([text, *_passed_over(result.passed)]), summary, as_json=as_json)


def _passed_over(passed: Mapping[str, int]) -> list[str]:
    from streamgan.core.storage.walk import counted

    number = sum(passed.values())
    return [f"{amount(number, 'file')} passed over: {counted(passed)}"] if passed else []


def report(out: str, result: Any, as_json: bool) -> None:
    manifest = result.manifest
    speed = result.written_bytes / 1e6 / result.seconds if result.seconds else 0.0
    splits = {
        name: {"samples": split.samples, "shards": len(split.shards), "bytes": split.bytes}
        for name, split in manifest.splits.items()
    }
    summary = {
        "out": str(out),
        "digest": manifest.digest,
        "splits": splits,
        "quarantine": manifest.quarantine["reasons"],
        "changed": manifest.quarantine.get("changed", {}),
        "passed_over": dict(result.passed),
        "nothing_to_do": result.nothing_to_do,
        "seconds": round(result.seconds, 3),
        "mb_per_s": round(speed, 1),
    }
    lines = [f"{out}: finished already, nothing to do"] if result.nothing_to_do else []
    for name, split in splits.items():
        size = f"{split['shards']:5} shards {split['bytes'] / 1e6:10.1f} MB"
        lines.append(f"{name:5} {split['samples']:9} samples {size}")
    lines += [f"bad   {count:9} {reason}" for reason, count in manifest.quarantine["reasons"].items()]
    changed = manifest.quarantine.get("changed", {})
    lines += [f"changed {count:7} {_in_words(change)} ({change})" for change, count in changed.items()]
    lines += _passed_over(result.passed)
    rows, most = sum(file["rows"] for file in manifest.source["files"]), manifest.options.get("max_samples")
    if most is not None and most > rows:
        lines.append(f"--max-samples {most}: the source has {amount(rows, 'row')}, and all are taken")
    lines.append(f"digest {manifest.digest}")
    if not result.nothing_to_do:
        lines.append(f"{result.seconds:.1f} s, {speed:.0f} MB/s")
    emit("\n".join(lines), summary, as_json=as_json)


def _in_words(change: str) -> str:
    name = change.removeprefix("gray_")
    return ("gray twin " if name != change else "") + _CHANGES.get(name, name)
