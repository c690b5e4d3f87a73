"""Data sets on the Hugging Face Hub: `ORG/NAME`, `hf://datasets/ORG/NAME@REVISION/PATH` -> files of a commit.

The revision is resolved to a commit once, which the manifest records; whoever continues a set without naming
a revision gets that commit again. The token is where `hf auth login` left it.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from streamgan.core.errors import ConfigError, DataError
from streamgan.core.storage.address import parse_hub
from streamgan.core.storage.hub import hub_error
from streamgan.core.storage.place import Place
from streamgan.core.storage.retry import with_retries

from .listing import Found, reason_to_pass, split_pattern


def is_hub(source: str) -> bool:
    """Whether `source` names a data set of the Hub; a plain ORG/NAME does if nothing here has that name."""
    if source.startswith("hf://"):
        return True
    is_name = parse_hub(source, plain="dataset") is not None and not source.endswith(".parquet")
    return is_name and not os.path.lexists(source)


def recorded(records: Iterable[Place]) -> dict[str, str]:
    """Commit by repository, as plans and manifests in `records` name them; unreadable ones say nothing."""
    commits = {}
    for path in records:
        try:
            files = json.loads(path.read_bytes())["source"]["files"]
            origins = [parse_hub(file.get("from", "")) for file in files]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        commits |= {one.repo: one.revision for one in origins if one and one.revision}
    return commits


def find(
    source: str, suffixes: tuple[str, ...], commits: Mapping[str, str], passed: Counter[str]
) -> list[Found]:
    """Files of the data set that end in `suffixes`, pinned; `commits` stand in for revisions not named."""
    named = parse_hub(source, plain="dataset")
    if not named or named.kind != "dataset":
        todo = "write hf://datasets/ORG/NAME, perhaps with @REVISION and /PATH"
        raise ConfigError(source, "not the address of a data set", todo)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    repo, inside, api = named.repo, named.path.strip("/"), HfApi()
    revision = named.revision or commits.get(repo)

    def listing() -> tuple[str, list[Any]]:
        try:
            commit = api.dataset_info(repo, revision=revision).sha
            assert commit
            tree = api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True)
            return commit, [one for one in tree if hasattr(one, "size")]
        except OfflineModeIsEnabled as error:
            todo = f"`hf download {repo} --repo-type dataset --local-dir data` elsewhere, then shard data"
            raise DataError(source, "the Hub is switched off (HF_HUB_OFFLINE)", todo) from error

    try:
        commit, files = with_retries(source, listing)
    except DataError as error:
        if error.__cause__ is None or isinstance(error.__cause__, OfflineModeIsEnabled):
            raise
        what, todo = hub_error(error.__cause__, "data set")
        here = "" if source.startswith("hf://") else "no such folder here, and "
        raise DataError(source, here + what, todo) from error
    origin, sizes = named.at(commit), {file.path: file.size for file in files}
    if inside in sizes:  # whatever its name looks like
        file = f"{origin}/{inside}"
        return [Found(file, file.rpartition("/")[0], sizes[inside], origin=origin)]
    folder, wanted = split_pattern(inside)
    base, found = f"{origin}/{folder}".rstrip("/"), []
    for path, size in sizes.items():
        name = path.removeprefix(f"{folder}/")
        if (folder and name == path) or not wanted.fullmatch(name):
            continue
        if reason := reason_to_pass(name, suffixes):
            passed[reason] += 1
        else:  # a commit never changes, so there is no identity to watch
            found.append(Found(f"{origin}/{path}", base, size, origin=origin))
    if not found:
        what = f"holds no .parquet file and no image at {commit[:12]}" + (
            f" under {inside}" if inside else ""
        )
        raise DataError(source, what, f"try hf://datasets/{repo}@refs/convert/parquet, which the Hub makes")
    return found
