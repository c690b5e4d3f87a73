"""`streamgan verify`: prove that a shard set is whole, or name what is not."""

from dataclasses import asdict

import click

from .options import Command
from .output import emit


@click.command(cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--full", is_flag=True, show_default=True, help="Decode every image, count all again.")
@click.option("--json", "as_json", is_flag=True, show_default=True, help="One JSON object on stdout.")
def verify(folder, full, as_json):
    """Check every byte of the shard set in DIR against its manifest.

    Prints one line for each thing that is wrong, with shard and key, and exits with 1; or one line
    beginning with OK. Nothing is written. DIR may be an address, s3://BUCKET/PREFIX or https://HOST/PATH; on
    a website, which lists nothing, files that are not the set's stay unseen.

    \b
    Example:
      streamgan verify shards/photos --full
    """
    from streamgan.core.errors import CheckFailed
    from streamgan.core.storage.address import redacted
    from streamgan.sharding.verify import verify as check

    report = check(folder, full=full)
    folder = redacted(str(folder))
    summary = {
        "folder": folder,
        "digest": report.digest,
        "samples": report.samples,
        "files": report.files,
        "bytes": report.bytes,
        "findings": [asdict(finding) for finding in report.findings],
    }
    if not report.findings:
        size = f"{report.samples} samples, {report.files} files, {report.bytes / 1e6:.1f} MB"
        emit(f"OK {size}, digest {report.digest}", summary, as_json=as_json)
        return
    if not as_json:  # otherwise they stand in the object that reports the failure
        for finding in report.findings:
            click.echo(str(finding))
    what = f"{len(report.findings)} thing{'s are' if len(report.findings) > 1 else ' is'} wrong"
    todo = "restore these files, or shard the source again into an empty folder"
    raise CheckFailed(folder, what, todo, report=summary)
