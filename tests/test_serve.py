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
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
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
from streamgan.inference.photo import Limits

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
START_S = 90
WAIT_MS = 240_000
NOTE_HELD_DOWNLOADS = """() => new MutationObserver(() => {
    const held = [...document.querySelectorAll("button:disabled")];
    window.held ||= held.some(one => /Download/.test(one.innerText));
}).observe(document.body, {subtree: true, childList: true, attributes: true})"""  # a moment, of small photos


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

    def build_page(self, colorizers: object, folder: Path, **limits: object) -> "StubPage":
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert os.environ["GRADIO_RUN_HISTORY"] == "False"
        self.folder, self.limits = folder, limits
        return self

    def look(self) -> dict[str, object]:
        return {}

    def launch(self, **_: object) -> None:
        (self.folder / "photo.jpg").write_text("private")
        os.kill(os.getpid(), self.number)

    def close(self, **_: object) -> None:
        return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_upload_outlives_a_server_that_is_ended(models, monkeypatch, run_as_program, number):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_RUN_HISTORY", "")
    page = StubPage(number)
    monkeypatch.setitem(sys.modules, "gradio", page)
    monkeypatch.setitem(sys.modules, "streamgan.inference.page", page)
    before = signal.getsignal(number)
    done = run_as_program("serve", "--model", models[0], "--max-pixels", 1000, "--max-mb", 3)
    assert done.code == 128 + number
    assert page.limits == {"limits": Limits(max_pixels=1000), "max_mb": 3}
    assert "uploads and results are removed" in done.stderr
    assert not page.folder.exists()
    assert signal.getsignal(number) is before


@contextmanager
def browser_on(address: str) -> Iterator[Callable[..., Any]]:
    """`visit(width)`: the page as a new visitor sees it, in Chromium, that asks nobody but `address`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    asked = []
    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=CHROMIUM, args=BROWSER)

        def visit(width: int) -> Any:
            page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
            page.set_default_timeout(WAIT_MS)
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            page.wait_for_selector("text=Saturation")
            return page

        yield visit
        browser.close()
    assert asked
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked


def downloaded(page: Any, name: str, folder: Path) -> Path:
    """The file under the button, once it is called so."""
    with page.expect_download() as coming:
        page.click(f"text=Download {name}")
    path = folder / f"{time.monotonic_ns()}-{name}"
    coming.value.save_as(path)
    return path


@pytest.fixture
def desk(photo, tmp_path):
    """What a visitor has on the desk."""
    pytest.importorskip("gradio", reason="pip install 'streamgan[web]'")
    muted = Image.blend(photo(3, (320, 240)), Image.new("RGB", (320, 240), (128, 128, 128)), 0.6)
    muted.save(tmp_path / "old photo.jpg", quality=95)
    photo(4, (90, 120)).convert("L").save(tmp_path / "scan.tif")
    (tmp_path / "letter.jpg").write_text("Dear photo")
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "big.png")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_colours_compares_and_refuses_in_a_real_browser(models, desk, width):
    with (
        running("serve", "--model", f"vivid={models[1]}", "--max-mb", 1) as address,
        browser_on(address) as visit,
    ):
        assert open_ports(int(address.rpartition(":")[2])) == {"0100007F"}  # 127.0.0.1 and nothing else
        page = visit(width)
        page.click("text=Try an example photo")
        page.wait_for_selector("text=Download example.jpg")
        pair = page.locator(".compare .pair")
        assert pair.bounding_box()["width"] == pytest.approx(min(600, pair.bounding_box()["width"]))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        images = page.locator(".compare img")
        assert images.evaluate_all("all => all.every(one => one.complete && one.naturalWidth == 600)")

        page.click("[aria-label='Clear']")
        names = ("old photo.jpg", "scan.tif", "letter.jpg")
        page.set_input_files("input[type=file]", [desk / name for name in names])
        with zipfile.ZipFile(downloaded(page, "colored.zip", desk)) as packed:
            assert packed.namelist() == ["old photo.jpg", "scan.tif"]
            packed.extractall(desk / "out")
        with Image.open(desk / "old photo.jpg") as given, Image.open(desk / "out/old photo.jpg") as made:
            assert (made.format, made.size) == ("JPEG", given.size)
            assert np.abs(lightness(made) - lightness(given)).mean() < 1
        told = page.inner_text(".told")
        assert "2 coloured, 1 not" in told
        assert "letter.jpg: not coloured (not an image that can be read)" in told

        page.get_by_label("Photo", exact=True).click()
        page.get_by_role("option", name="scan.tif").click()
        page.wait_for_selector("img[alt='scan.tif, gray']")
        border = page.get_by_label("scan.tif, coloured by vivid")
        border.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert border.input_value() == "48"
        pair = page.locator(".compare .pair")
        assert pair.evaluate("one => getComputedStyle(one).getPropertyValue('--at')") == "48%"
        assert pair.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"  # the focus is seen

        page.evaluate(NOTE_HELD_DOWNLOADS)
        page.get_by_label("number input").fill("0")
        page.get_by_label("number input").press("Tab")
        page.wait_for_function("window.held")  # not of the colours before
        with zipfile.ZipFile(downloaded(page, "colored.zip", desk)) as packed:
            gray = np.asarray(Image.open(packed.open("scan.tif")), int)
        assert np.ptp(gray, axis=2).max() <= 1


def drop(page: Any, *paths: Path) -> None:
    """Let files and folders fall onto the place for uploads, as from a file manager."""
    box = page.locator("#uploads").bounding_box()
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "data": data, **at})


@pytest.mark.slow
def test_what_cannot_be_uploaded_is_named_and_the_rest_is_coloured(models, desk, photo):
    many = [desk / f"{number}.jpg" for number in range(50)]
    for number, path in enumerate(many):
        photo(number, (48, 40)).save(path)
    (desk / "empty.jpg").touch()
    (desk / "folder").mkdir()
    shutil.copy(desk / "scan.tif", desk / "folder")
    with running("serve", "--model", models[0], "--max-mb", 1) as address, browser_on(address) as visit:
        page = visit(1600)
        page.set_input_files("input[type=file]", [desk / "big.png", *many, desk / "empty.jpg"])
        with zipfile.ZipFile(downloaded(page, "colored.zip", desk)) as packed:
            assert packed.namelist() == [path.name for path in many]
        told = page.inner_text("body")
        assert "big.png: not uploaded (1.5 MB, more than 1 MB; make it smaller)" in told
        assert "50 coloured, 1 not" in told
        assert "empty.jpg: not coloured (not an image that can be read)" in told

        page.click("[aria-label='Clear']")
        page.wait_for_selector("text=Drop photos, or try the example.")
        assert not page.locator(".left-out li").count()
        page.set_input_files("input[type=file]", desk / "big.png")
        page.wait_for_selector("text=big.png: not uploaded")
        drop(page, desk / "folder", desk / "scan.tif", desk / "big.png")
        downloaded(page, "scan.tif", desk)
        lines = page.locator(".left-out li").all_inner_texts()
        assert [line.split(" (")[0] for line in lines] == ["folder: not uploaded", "big.png: not uploaded"]
        assert "1 coloured" in page.inner_text(".told")


@pytest.mark.slow
def test_two_visitors_wait_in_one_queue_and_get_their_own_photos(models, desk, photo):
    large = []
    for seed in range(5):
        large.append(desk / f"large{seed}.jpg")
        photo(seed, (2000, 1500)).save(large[-1])
    words = [word for path in models for word in ("--model", f"{path.parent.name}={path}")]
    with running("serve", *words) as address, browser_on(address) as visit:
        first, second = visit(1600), visit(360)
        first.set_input_files("input[type=file]", large)
        first.wait_for_selector("text=/[0-9].5 photos/")
        second.set_input_files("input[type=file]", desk / "scan.tif")
        second.wait_for_selector("text=/queue: 1.1/")
        with zipfile.ZipFile(downloaded(second, "colored.zip", desk)) as packed:
            assert packed.namelist() == ["soft/scan.tif", "vivid/scan.tif"]
            assert packed.read("soft/scan.tif") != packed.read("vivid/scan.tif")
        with zipfile.ZipFile(downloaded(first, "colored.zip", desk)) as packed:
            assert {Path(name).name for name in packed.namelist()} == {path.name for path in large}
        assert second.locator(".compare figure").count() == 2
        assert "large" not in second.inner_text("body")
        assert "scan" not in first.inner_text("body")


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


@pytest.mark.parametrize(
    ("words", "told"),
    [(["={}"], r"=\S+ has no name before its ="), (["a={}", "a={}"], "two models have the name 'a'")],
)
def test_each_model_of_the_page_has_a_name_of_its_own(models, monkeypatch, words, told):
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    given = [word for text in words for word in ("--model", text.format(models[0]))]
    with pytest.raises(ConfigError, match=rf"^--model: {told}"):
        CliRunner().invoke(serve, given, catch_exceptions=False, standalone_mode=False)


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
def test_the_board_shows_several_runs_by_name(whole_run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
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
