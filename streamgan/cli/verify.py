"""`streamgan verify`: prove that a shard set is whole, or name what is not."""

import json
from dataclasses import asdict

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--full", is_flag=True, show_default=True, help="Decode every image too.")
@click.option("--json", "as_json", is_flag=True, show_default=True, help="One JSON object on stdout.")
def verify(folder, full, as_json):
    """Check every byte of the shard set in DIR against its manifest.

    Prints one line for each thing that is wrong, with shard and key, and exits with 1; or one line
    beginning with OK. Nothing is written.

    \b
    Example:
      streamgan verify shards/photos --full
    """
    from streamgan.core.errors import CheckFailed
    from streamgan.sharding.verify import verify as check

    report = check(folder, full=full)
    if as_json:
        summary = {
            "ok": not report.findings,
            "digest": report.digest,
            "samples": report.samples,
            "files": report.files,
            "bytes": report.bytes,
            "findings": [asdict(finding) for finding in report.findings],
        }
        click.echo(json.dumps(summary))
        if report.findings:
            click.get_current_context().exit(CheckFailed.exit_code)
        return
    for finding in report.findings:
        click.echo(str(finding))
    if report.findings:
        what = f"{len(report.findings)} thing{'s are' if len(report.findings) > 1 else ' is'} wrong"
        raise CheckFailed(folder, what, "restore these files, or shard the source again into an empty folder")
    click.echo(
        f"OK {report.samples} samples, {report.files} files, {report.bytes / 1e6:.1f} MB, "
        f"digest {report.digest}"
    )
