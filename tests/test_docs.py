"""Documentation that stays true: every command in it is parsed, and run where this machine can.

A block of commands has a comment before it: `<!-- run -->` (in order, page after page; words after a colon
are added to every training command), or `<!-- needs: ... -->`, which says why it is not run here.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
import torch
from shared import make_photo
from training import ROOT, tiny_config

from streamgan.cli.main import streamgan
from streamgan.core.config import load_config
from streamgan.models import GENERATORS
from streamgan.train.loop import train

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "launch/README.md", "shards/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"(?:^ *<!-- ([^>]*) -->\n)?^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PROGRAMS = {"streamgan", "accelerate", "tensorboard", "pip", "make", "git", "sbatch", "torchrun", "export"}
PLACEHOLDERS = {"RECIPE": "launch/recipes/default.yaml", "N": "8", "K": "1", "MS": "100", "DIR": "shards/own"}
JOURNEY = ["README.md", "docs/tutorials/own-photos.md", "docs/tutorials/fine-tuning.md"]


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(mark, language, text) of the fenced blocks of a page."""
    found = FENCE.findall(page.read_text())
    return [
        (mark.strip(), language, re.sub(f"^{pad}", "", text, flags=re.M))
        for mark, pad, language, text in found
    ]


def commands(text: str) -> list[list[str]]:
    """The commands of a block as words, with placeholders filled in; lines that are none are left out."""
    lines = text.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line, comments=True)]
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if words and words[0] in PROGRAMS:
            found.append(words)
    return found


def check(words: list[str]) -> None:
    """Raises if a command of ours does not exist in this form."""
    if "launch/train.py" in words:
        words = ["streamgan", "train", *words[words.index("launch/train.py") + 1 :]]
    if words[0] != "streamgan" or "..." in words:
        return
    command, rest = streamgan, words[1:]
    context = click.Context(streamgan, **streamgan.context_settings)
    while isinstance(command, click.Group):
        _, command, rest = command.resolve_command(context, rest)
        assert command is not None
    parsed = command.make_context(command.name, list(rest), parent=context)
    if command.name == "train" and not parsed.params["settings"]:
        path = parsed.params["config"]
        load_config(None if path is None else ROOT / path, parsed.params["overrides"])


ALL = [(page.relative_to(ROOT).as_posix(), *block) for page in PAGES for block in blocks(page)]
TABLE = re.findall(
    r"`((?:[A-Z_]+=\S+ )?(?:accelerate|streamgan|torchrun) [^`]+)`", (ROOT / "launch/README.md").read_text()
)
TYPED = [
    (page, words)
    for page, _, language, text in ALL
    if language in ("", "console")
    for words in commands(text)
]
TYPED += [("launch/README.md", words) for line in TABLE for words in commands(line)]


@pytest.mark.parametrize(
    ("page", "words"), TYPED, ids=lambda value: value if isinstance(value, str) else " ".join(value[:3])
)
def test_a_command_in_the_documentation_exists_with_these_options(page, words):
    check(words)


def test_wrong_options_and_settings_in_the_documentation_would_be_found():
    with pytest.raises(click.UsageError):
        check(shlex.split("streamgan shard photos --output shards/own"))
    with pytest.raises(Exception, match=r"did you mean optim\.lr_g"):
        check(shlex.split("accelerate launch launch/train.py run.steps=3 optim.lrg=1"))


@pytest.mark.parametrize(
    ("page", "mark", "language", "text"), [row for row in ALL if row[0].startswith(("README", "docs"))]
)
def test_a_block_of_commands_is_run_or_says_what_it_needs(page, mark, language, text):
    if commands(text) or (language == "python" and "import" in text):
        assert re.match(r"(run|needs|model)\b", mark), f"{page}: mark this block:\n{text}"


@pytest.fixture(scope="module")
def desk(source_folder, whole_run, tmp_path_factory) -> Path:
    """A folder as a reader has it: the checkout's `launch`, photos, parquet files and a finished run."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "launch").symlink_to(ROOT / "launch")
    shutil.copytree(source_folder, desk / "data")
    shutil.copytree(whole_run, desk / "runs" / "photos")
    for folder, count in (("photos", 100), ("old", 3), ("archive", 2)):
        (desk / folder).mkdir()
        for seed in range(count):
            make_photo(seed).save(desk / folder / f"{folder}-{seed:03d}.jpg")
    shutil.copy(desk / "old" / "old-000.jpg", desk / "old.jpg")
    return desk


@pytest.mark.slow
@pytest.mark.dist
def test_the_blocks_marked_run_work_in_the_order_of_the_pages(desk):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = 0
    for page in JOURNEY:
        for mark, language, text in blocks(ROOT / page):
            if not mark.startswith("run"):
                continue
            extra = mark.partition(":")[2]
            lines = text.replace("\\\n", " ").splitlines()
            script = "\n".join(f"{line} {extra}" if "launch/train.py" in line else line for line in lines)
            program = (
                [sys.executable, "-c", text]
                if language == "python"
                else ["bash", "-euo", "pipefail", "-c", script]
            )
            done = subprocess.run(
                program, cwd=desk, env=environment, capture_output=True, text=True, check=False, timeout=300
            )
            assert done.returncode == 0, f"{page}:\n{script}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran >= 8
    assert len(list((desk / "colored").iterdir())) == 100 + 3 + 2


def test_the_model_of_the_tutorial_trains_and_takes_odd_sizes(shard_set, tmp_path, monkeypatch):
    code = next(text for mark, _, text in blocks(ROOT / "docs/tutorials/new-model.md") if mark == "model")
    module = types.ModuleType("streamgan.models.tiny")
    exec(compile(code, "tiny.py", "exec"), module.__dict__)
    monkeypatch.setitem(GENERATORS, "tiny", module.Tiny)
    assert module.Tiny(out_channels=2)(torch.zeros(1, 1, 97, 131)).shape == (1, 2, 97, 131)
    words = ["run.steps=2", "model.generator=tiny", "model.width=8", "model.depth=null", "model.norm=null"]
    result = train(tiny_config(shard_set, tmp_path / "run", *words))
    assert result["steps"] == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(page):
    """But for the two pages of the site that are made of the code."""
    made = ("reference/commands.md", "reference/settings.md")
    links = re.findall(r"\]\((?![a-z]+:)([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if link not in made and not (page.parent / link).exists()] == []
