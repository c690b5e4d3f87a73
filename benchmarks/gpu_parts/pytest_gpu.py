"""The tests that need a card on this machine, four at a time: the result of every one."""

import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator

from common import markdown

from .task import ROOT, Result, Task

LAST_WORDS_S = 8.0


def measure(task: Task) -> Iterator[Result]:
    log, listed = task.out / "pytest_gpu.log", task.scratch / "pytest.xml"
    files = ["tests/test_gpu.py", "tests/test_gpu_runs.py"]
    command = [sys.executable, "-m", "pytest", *files, "-p", "no:cacheprovider", "-vv", "-n", "4"]
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*command, f"--junitxml={listed}"],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(timeout=max(1.0, task.seconds - LAST_WORDS_S))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it writes what it has
            process.wait()
    if not listed.exists():
        raise RuntimeError(f"pytest ended with {process.returncode}: {log.read_text()[-2000:]}")
    tests = []
    for case in ElementTree.parse(listed).iter("testcase"):
        bad = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        tests.append(
            {
                "name": case.get("name"),
                "seconds": float(case.get("time", 0)),
                "result": "passed" if bad is None else bad.tag,
                "why": "" if bad is None else bad.get("message", "")[:600],
                "text": "" if bad is None or bad.tag == "skipped" else (bad.text or "")[-4000:],
            }
        )
    if process.returncode == 0:
        log.unlink()
    yield {"exit_code": process.returncode, "tests": tests}


def report(result: Result) -> str:
    rows = [
        [test["name"], test["result"], f"{test['seconds']:.1f}", " ".join(test["why"].split())[:160]]
        for test in result["tests"]
    ]
    counts = Counter(test["result"] for test in result["tests"])
    summary = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    return f"{summary}.\n\n" + markdown(
        ["test", "result", "s", ""], [[cell.replace("|", "\\|") for cell in row] for row in rows]
    )
