"""Pages that are written elsewhere: commands and settings from the code, README files of the repository.

Links lead to files of the repository, so that they work there too. On the site a link to what is a page of it
becomes one; a link to a file that is no page becomes its path.
"""

import re
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

import click
from mkdocs.structure.files import File, Files

from streamgan.cli.main import streamgan
from streamgan.core.settings import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = {  # file of the repository -> page of the site
    "shards/README.md": "reference/shards.md",
    "launch/README.md": "launching.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
COMMANDS = """\
Results go to stdout, progress and messages to stderr. `--json` gives exactly one object, also for an error.
Exit codes: 0 done, 1 a check failed, 2 usage or configuration, 3 data, 4 checkpoint, 130 Ctrl-C,
129 SIGHUP, 143 SIGTERM.
`accelerate launch` itself turns every failure into 1."""
SETTINGS = """\
Every setting stands in a recipe (YAML) or on the command line as `section.key=value`. The same list:
`streamgan train --settings`. An unknown name is an error that names the nearest one."""
LINK = re.compile(r"(!?)\[([^\]]+)\]\((?![a-z]+:)([^)#]*)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    written = {page: _page(source, page) for source, page in PAGES.items() if source != "README.md"}
    written["reference/commands.md"] = commands_page()
    written["reference/settings.md"] = settings_page()
    for page, text in written.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The links of the pages that lie in docs/."""
    return _with_links(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def _page(source: str, page: str) -> str:
    return _with_links((ROOT / source).read_text(), source, page)


def _with_links(text: str, source: str, page: str) -> str:
    folder = Path(source).parent.as_posix()

    def link(found: re.Match[str]) -> str:
        picture, words, path, anchor = found.groups()
        if not path:
            return found[0]
        target = normpath(f"{folder}/{path}")
        if target in PAGES or target.startswith("docs/"):
            place = PAGES.get(target, target.removeprefix("docs/"))
            return f"{picture}[{words}]({relpath(place, Path(page).parent)}{anchor or ''})"
        assert (ROOT / target).exists(), f"{source}: a link to {path}, which does not exist"
        return f"`{target}`" if words == target else f"{words} (`{target}`)"

    return LINK.sub(link, text)


def commands_page() -> str:
    """What `--help` prints of every command."""
    lines = ["# Commands", "", COMMANDS]

    def add(command: click.Command, name: str, parent: click.Context | None) -> None:
        settings = {**command.context_settings, "max_content_width": 90}
        context = click.Context(command, parent=parent, info_name=name.split()[-1], **settings)
        lines.extend(["", f"## {name}", "", "```text", command.get_help(context), "```"])
        for word, inner in getattr(command, "commands", {}).items():
            add(inner, f"{name} {word}", context)

    add(streamgan, "streamgan", None)
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Every setting with type, default and meaning, a table a section."""
    lines = ["# Settings", "", SETTINGS]
    for section, outer in TrainConfig.model_fields.items():
        lines += ["", f"## {section}", "", "| setting | default | meaning |", "|---|---|---|"]
        for key, field in outer.annotation.model_fields.items():  # type: ignore[union-attr]
            default = "" if field.is_required() else f"`{field.default}`"
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            kind = str(field.annotation)
            if choices := re.findall(r"'(\w+)'", kind) if "Literal" in kind else []:
                meaning += " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
            lines.append(f"| `{section}.{key}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"
