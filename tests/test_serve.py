"""`streamgan serve` and `streamgan board` as their users meet them: real servers, a real browser."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_colorize import lightness, save_generator
from torch.utils.tensorboard import SummaryWriter
from training import ROOT

from streamgan.cli.serve import serve
from streamgan.cli.tensorboard import board
from streamgan.core.errors import CheckpointError, ConfigError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
START_S = 90
READY = """() => [...document.querySelectorAll("a, button")].some(one =>
    one.textContent.includes("Download vivid") && !one.disabled && !one.classList.contains("disabled"))"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextmanager
def running(*words: object, number: int = signal.SIGINT):
    """The address that a `streamgan` server announces; the signal `number` ends it."""
    port = free_port()
    command = [sys.executable, "-m", "streamgan.cli", *map(str, words), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.match(r"(http://\S+)", line):
            break
    else:
        raise AssertionError(f"no address was announced: {''.join(said)}")
    try:
        yield found[1].rstrip("/")
    finally:
        process.send_signal(number)
        rest = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + number, rest
    assert "Traceback" not in rest


def open_ports(port: int) -> set[str]:
    """Local addresses that listen on a port, from /proc/net."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [
        save_generator(folder / name / "ema.safetensors", chroma=chroma)
        for name, chroma in (("soft", 0.1), ("vivid", -0.2))
    ]


def test_a_missing_extra_is_named(models, monkeypatch):
    monkeypatch.delitem(sys.modules, "streamgan.inference.page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r"gradio is missing.*streamgan\[web\]"):
        CliRunner().invoke(serve, ["--model", str(models[0])], catch_exceptions=False, standalone_mode=False)


class StubPage:
    """Stands for the page: somebody uploads a photo, then the signal comes."""

    def __init__(self, number: int):
        self.number = number

    def build_page(self, colorizers: object, folder: Path) -> "StubPage":
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        self.folder = folder
        return self

    def theme(self) -> None:
        return None

    def launch(self, **_: object) -> None:
        (self.folder / "photo.jpg").write_text("private")
        os.kill(os.getpid(), self.number)

    def close(self, **_: object) -> None:
        return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_upload_outlives_a_server_that_is_ended(models, monkeypatch, run_as_program, number):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    page = StubPage(number)
    monkeypatch.setitem(sys.modules, "gradio", page)
    monkeypatch.setitem(sys.modules, "streamgan.inference.page", page)
    before = signal.getsignal(number)
    done = run_as_program("serve", "--model", models[0])
    assert done.code == 128 + number
    assert "uploads and results are removed" in done.stderr
    assert not page.folder.exists()
    assert signal.getsignal(number) is before


@pytest.mark.slow
def test_the_page_colours_compares_and_refuses_in_a_real_browser(models, photo, tmp_path):
    pytest.importorskip("gradio", reason="pip install 'streamgan[web]'")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    muted = Image.blend(photo(3, (320, 240)), Image.new("RGB", (320, 240), (128, 128, 128)), 0.6)
    muted.save(tmp_path / "old photo.jpg", quality=95)
    (tmp_path / "letter.jpg").write_text("Dear photo")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)).save(
        tmp_path / "big.png"
    )
    outside = []
    words = [word for path in models for word in ("--model", f"{path.parent.name}={path}")]
    with running("serve", *words, "--max-mb", 1) as address, playwright.sync_playwright() as start:
        assert open_ports(int(address.rpartition(":")[2])) == {"0100007F"}  # 127.0.0.1 and nothing else
        browser = start.chromium.launch(executable_path=CHROMIUM, args=BROWSER)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("request", lambda request: outside.append(request.url))
        page.goto(address)
        page.wait_for_selector("text=Saturation", timeout=60_000)
        page.set_input_files("input[type=file]", tmp_path / "old photo.jpg")
        page.wait_for_function(READY, timeout=60_000)

        def download(name: str) -> Image.Image:
            with page.expect_download() as coming:
                page.click(f"text=Download {name} (PNG)")
            path = tmp_path / f"{name}-{time.monotonic_ns()}.png"
            coming.value.save_as(path)
            return Image.open(path).convert("RGB")

        soft, vivid = download("soft"), download("vivid")
        assert soft.size == vivid.size == (320, 240)
        assert np.asarray(soft).tobytes() != np.asarray(vivid).tobytes()
        with Image.open(tmp_path / "old photo.jpg") as given:
            assert np.abs(lightness(vivid) - lightness(given)).mean() < 1
        page.screenshot(path=tmp_path / "coloured.png")
        page.get_by_label("number input").fill("0")
        page.get_by_label("number input").press("Tab")
        page.wait_for_timeout(3000)
        gray = np.asarray(download("vivid"), np.int16)
        assert np.abs(gray[..., 0] - gray[..., 2]).max() <= 1

        page.click("[aria-label='Clear']")
        page.set_input_files("input[type=file]", tmp_path / "letter.jpg")
        page.wait_for_selector("text=not a photo that can be read", timeout=60_000)
        page.reload()
        page.wait_for_selector("text=Saturation", timeout=60_000)
        page.set_input_files("input[type=file]", tmp_path / "big.png")
        page.wait_for_selector("text=/exceeds|too large|maximum/i", timeout=60_000)
        browser.close()
    assert outside
    assert all(url.startswith((address, "data:", "blob:")) for url in outside), outside


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_upload_is_removed_when_the_server_is_ended(models, photo, tmp_path, monkeypatch, number):
    pytest.importorskip("gradio", reason="pip install 'streamgan[web]'")
    client = pytest.importorskip("httpx")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    photo(3).save(tmp_path / "photo.png")
    with (
        running("serve", "--model", models[0], number=number) as address,
        open(tmp_path / "photo.png", "rb") as data,
    ):
        answer = client.post(f"{address}/gradio_api/upload", files={"files": data})
        assert answer.status_code == 200
        (upload,) = answer.json()
        assert Path(upload).read_bytes() == (tmp_path / "photo.png").read_bytes()
    assert not Path(upload).exists()
    assert not list(tmp_path.glob("streamgan-serve-*"))


def test_a_taken_port_is_one_line(models, monkeypatch):
    pytest.importorskip("gradio", reason="pip install 'streamgan[web]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ["--model", str(models[0]), "--port", str(taken.getsockname()[1])]
        with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1"):
            CliRunner().invoke(serve, words, catch_exceptions=False, standalone_mode=False)


def answers(address: str, path: str, enough: Callable[[Any], bool]) -> Any:
    """What TensorBoard answers, which reads its files beside, once there is enough of it."""
    deadline = time.monotonic() + START_S
    while True:
        with urllib.request.urlopen(f"{address}/data/{path}", timeout=30) as answer:
            found = json.load(answer)
        if enough(found) or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


@pytest.mark.slow
def test_the_board_shows_several_runs_by_name(whole_run, tmp_path):
    again = shutil.copytree(whole_run, tmp_path / "again")
    with running("board", whole_run, again) as address:
        found = answers(address, "runs", lambda runs: len(runs) == 2)
        assert set(found) == {whole_run.name, "again"}
        assert open_ports(int(address.rpartition(":")[2])) == {"0100007F"}


@pytest.mark.slow
def test_the_board_shows_a_run_by_its_name_and_more_than_ten_of_its_grids(tmp_path):
    with SummaryWriter(str(tmp_path / "old photos" / "tensorboard")) as writer:
        for step in range(1, 41):
            writer.add_image("samples/val", torch.full((3, 8, 8), step / 64), step)
    with running("board", tmp_path / "old photos") as address:
        assert answers(address, "runs", bool) == ["old photos"]
        query = "plugin/images/images?run=old%20photos&tag=samples%2Fval&sample=0"
        grids = answers(address, query, lambda found: len(found) == 40)
    assert [grid["step"] for grid in grids] == list(range(1, 41))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["runs"], None),
        (["runs/a"], {"a": "runs/a/tensorboard"}),
        (["runs/a/tensorboard"], {"a": "runs/a/tensorboard"}),
        (["runs/b,c:d"], {"b,c:d": "runs/b,c:d/tensorboard"}),
        (["runs/a", "runs", "runs/a"], {"a": "runs/a/tensorboard", "runs": "runs"}),
        (["runs/a", "other/a"], {"runs-a": "runs/a/tensorboard", "other-a": "other/a/tensorboard"}),
    ],
)
def test_each_run_on_the_board_has_the_name_of_its_folder(given, shown, tmp_path, monkeypatch):
    class Board(Exception):
        def configure(self, argv: list[str]) -> None:
            logs = Path(argv[argv.index("--logdir") + 1])
            links = {} if str(logs) in given else {link.name: link.resolve() for link in logs.iterdir()}
            raise Board(links)

    for name in ("runs/a", "runs/b,c:d", "other/a"):
        (tmp_path / name / "tensorboard").mkdir(parents=True)
        (tmp_path / name / "tensorboard" / "events.out.tfevents.1").touch()
    monkeypatch.setattr(import_module("tensorboard.program"), "TensorBoard", Board)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Board) as caught:
        CliRunner().invoke(board, given, catch_exceptions=False)
    assert caught.value.args[0] == {name: tmp_path / place for name, place in (shown or {}).items()}


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no run with TensorBoard files here"):
        CliRunner().invoke(board, [str(tmp_path)], catch_exceptions=False, standalone_mode=False)
