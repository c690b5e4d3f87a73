"""SIGTERM and SIGHUP end a command as Ctrl-C does: it cleans up, says what continues, and has a code."""

import signal
from types import FrameType

import click

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop(KeyboardInterrupt):
    """What the signal `number` raises in a command; `todo` says how the work goes on."""

    def __init__(self, number: int, todo: str):
        super().__init__()
        self.number, self.todo = number, todo


def stop_on_signals(context: click.Context, todo: str) -> None:
    """Let signals raise Stop until the command of `context` ends; ignored ones (nohup) stay ignored."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stop(number, todo)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, stop)

    def restore() -> None:
        for number in taken:
            signal.signal(number, before[number])

    context.call_on_close(restore)


def told(error: BaseException) -> tuple[int, str]:
    """The exit code and the message for an interruption; click hides what was raised behind an Abort."""
    stop = error.__cause__ or error
    if not isinstance(stop, Stop):
        return 128 + signal.SIGINT, "interrupted; the same command continues"
    name = "interrupted" if stop.number == signal.SIGINT else f"ended by {signal.Signals(stop.number).name}"
    return 128 + stop.number, f"{name}; {stop.todo}"
