"""Large photos: how much memory they take, and what is said before it would not suffice."""

import subprocess
import sys

import pytest
from archive_fixtures import gray_of
from click.testing import CliRunner
from PIL import Image
from test_colorize import save_generator

from streamgan.cli.colorize import colorize
from streamgan.core import machine
from streamgan.core.errors import CheckFailed
from streamgan.core.machine import available_memory
from streamgan.inference import memory, photo

# Colours a photo with bands that cost nothing, and says the peak of the memory before and behind.
PEAK = """
import sys
from pathlib import Path
import numpy as np, psutil
from PIL import Image
from streamgan.inference import one_file
from streamgan.inference.colorizer import Colorizer
from streamgan.inference.inputs import Target

def bands(self, photo, chroma):
    for top in range(0, photo.size[0], 50):
        band = photo.pixels[top : top + 50]
        yield np.ascontiguousarray(band if band.ndim == 3 else np.repeat(band[..., None], 3, 2))

Image.init()
Colorizer.bands = bands
colorizer = Colorizer.load(sys.argv[1], device="cpu")
for name in sys.argv[2:]:
    before = psutil.Process().memory_info().rss
    made = one_file.color_pages(colorizer, Target(Path(name), Path("out") / Path(name).name), one_file.PLAIN)
    assert made.kind == "colored", made
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(before, int(peak) * 1024)  # that of getrusage is also that of the parent
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "ema.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"), [("a.jpg", "L"), ("a.jpg", "RGB"), ("a.tif", "RGB"), ("a.png", "RGB"), ("a.ppm", "RGB")]
)
def test_a_large_photo_takes_no_more_memory_than_is_said(photo, model, tmp_path, name, mode):
    small, large = (300, 300), (7000, 7000)
    for folder, size in (("small", small), ("large", large)):
        (tmp_path / folder).mkdir()
        gray_of(photo(1, (700, 700))).convert(mode).resize(size).save(tmp_path / folder / name)
    command = [sys.executable, "-c", PEAK, model, f"small/{name}", f"large/{name}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split()[2:])
    with Image.open(tmp_path / "large" / name) as image:
        said = memory.bytes_per_pixel(image, photo_kind(name))
    assert after - before < (said + 0.5) * 7000 * 7000 + (40 << 20)  # what libraries take once


def photo_kind(name: str) -> str:
    return {"jpg": "JPEG", "tif": "TIFF", "png": "PNG", "ppm": "PPM"}[name[-3:]]


def test_too_little_memory_is_said_before_anything_is_decoded(model, tmp_path, monkeypatch):
    Image.new("L", (100, 100), 99).save(tmp_path / "a.png")
    monkeypatch.setattr(memory, "_ROOM", 9999)
    monkeypatch.setattr(memory, "available_memory", lambda: 49_000)
    given = [
        str(tmp_path / "a.png"),
        "--model",
        str(model),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    with monkeypatch.context() as undecoded:
        undecoded.setattr(photo, "read_photo", lambda _: pytest.fail("decoded"))
        result = CliRunner().invoke(colorize, given)
        assert isinstance(result.exception, CheckFailed)
        assert "100 x 100 pixels need about 0.0 GB of memory (got 0.0 GB that are free)" in result.stderr
        assert "; --format tiff may need less" in result.stderr
    assert CliRunner().invoke(colorize, [*given, "--format", "tiff"]).exit_code == 0
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert CliRunner().invoke(colorize, given).exit_code == 0


def test_what_a_photo_needs_depends_on_how_it_is_stored(tmp_path):
    def needed(mode: str, kind: str, ending: str, **options: object) -> int:
        Image.new(mode, (8, 8)).save(tmp_path / f"a.{ending}", **options)
        with Image.open(tmp_path / f"a.{ending}") as image:
            return memory.bytes_per_pixel(image, kind)

    assert needed("L", "JPEG", "jpg") == 1 + 4
    assert needed("L", "TIFF", "tif") == 1 + 1
    assert needed("RGB", "JPEG", "jpg") == 3 + 4
    assert needed("RGB", "JPEG", "jpg", progressive=True) == 3 + 4 + 6
    assert needed("I;16", "PNG", "png") == 2 + 2
    assert needed("RGB", "JP2", "jp2") > needed("RGB", "AVIF", "png") > needed("RGB", "PNG", "png")


def test_the_memory_of_a_container_is_what_it_may_have(tmp_path, monkeypatch):
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   4000 kB\n"}
    monkeypatch.setattr(machine.Path, "read_text", lambda path: read(files, path))
    assert available_memory() == 4000 * 1024
    files |= {"/sys/fs/cgroup/memory.max": "3000000\n", "/sys/fs/cgroup/memory.current": "1000000\n"}
    files |= {"/sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 200000\n"}
    assert available_memory() == 2_200_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert available_memory() == 4000 * 1024
    files.clear()
    assert available_memory() is None


def read(files: dict[str, str], path: object) -> str:
    try:
        return files[str(path)]
    except KeyError:
        raise FileNotFoundError(path) from None
