"""`--allow-skips FILE`: a skipped test fails the run unless a line of FILE names it.

A line is a pattern of tests, ` | `, and a regular expression found in the reason; `#` begins a comment.
"""

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest


class SkipsAllowed:
    """Looks at every skip, also of whole files; with xdist in its controller, at those of all workers."""

    def __init__(self, path: Path):
        self._path = path
        lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
        self._allowed = [tuple(part.strip() for part in line.split("|", 1)) for line in lines if line]
        self._refused: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            if not any(
                fnmatchcase(report.nodeid, who) and re.search(why, reason) for who, why in self._allowed
            ):
                self._refused[report.nodeid] = reason.removeprefix("Skipped: ")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._refused:
            terminalreporter.section(f"skipped, and not in {self._path}", red=True)
            for test, reason in self._refused.items():
                terminalreporter.line(f"{test}: {reason}")
