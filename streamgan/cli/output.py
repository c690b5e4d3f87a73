"""What leaves a command: results on stdout, one line for an error on stderr, and the exit code."""

import json
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

import click

from streamgan.core.errors import CheckFailed, StreamganError, file_error, is_of_file_system
from streamgan.core.finite import finite
from streamgan.core.logs import is_main_process

from .options import with_home
from .stopping import told


def emit(text: str, value: dict[str, Any], *, as_json: bool) -> None:
    """The result of a command: `text` for people, or one JSON object with `ok` true; from rank 0 alone."""
    if is_main_process():
        try:
            click.echo(json.dumps(finite({"ok": True, **value})) if as_json else text)
        except OSError as error:
            error.filename = "standard output"
            raise


def amount(count: float, word: str) -> str:
    """`1 shard`, `1,234 shards`."""
    return f"{count:,.0f} {word}{'s' * (round(count) != 1)}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns aligned with spaces: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    )


def run_command(command: click.Command) -> NoReturn:
    """Run a click command as a process: its errors become one line (or one JSON object) and an exit code."""
    arguments = [with_home(word) for word in sys.argv[1:]]
    try:
        result = command.main(arguments, standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)  # click returns the code of --help and --version
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # the help itself, without "error:" before it
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        _fail(error.exit_code, "UsageError", f"{error.format_message()}{hint}", {}, arguments)
    except StreamganError as error:
        _fail_with(error, arguments)
    except (KeyboardInterrupt, click.Abort) as error:
        code, message = told(error)
        _fail(code, "Interrupted", message, {}, arguments)
    except BrokenPipeError:
        _close_stdout()  # the reader left: nothing more to say
        sys.exit(1)
    except OSError as error:
        if not is_of_file_system(error):
            raise
        _fail_with(file_error(error), arguments)


def _fail_with(error: StreamganError, arguments: list[str]) -> NoReturn:
    parts = {"where": error.where, "what": error.what, "todo": error.todo}
    report = error.report if isinstance(error, CheckFailed) else {}
    _fail(error.exit_code, type(error).__name__, str(error), parts, arguments, report)


def _fail(
    code: int,
    kind: str,
    message: str,
    parts: dict[str, str],
    arguments: list[str],
    report: dict[str, Any] | None = None,
) -> NoReturn:
    if "--json" in arguments and is_main_process():
        error = {"type": kind, "message": message, **parts}
        try:
            click.echo(json.dumps(finite({"ok": False, "error": error, "exit_code": code, **(report or {})})))
        except OSError:
            _close_stdout()
    rank = os.environ.get("RANK", "0")
    with suppress(OSError):
        click.echo(f"error: {message}" if rank == "0" else f"error (rank {rank}): {message}", err=True)
    try:
        sys.stdout.flush()
    except OSError:
        _close_stdout()
    sys.exit(code)


def _close_stdout() -> None:
    """What is left for stdout goes nowhere, or the interpreter would fail on it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
