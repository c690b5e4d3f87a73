"""What lies on the Hugging Face Hub: models by name as local folders, files by their web address.

A model is `ORG/NAME`, perhaps with `@REVISION`, or `ready`, which comes with streamgan. Errors are in words.
"""

import os
import re
from pathlib import Path
from typing import Any

from streamgan.core.errors import CheckpointError, ConfigError

from .address import is_address, parse_hub
from .retry import status_of, with_retries

READY = "ready"  # the bundle in this package
BUNDLED = "model.safetensors"  # what colours, in a bundle (inference/bundle.py)
_COMMIT = re.compile("[0-9a-f]{40}")
_FILES = ["*.safetensors", "*.json", "*.yaml", "README.md", "LICENSE"]


def is_hub_model(name: str) -> bool:
    """Whether `name` can be a model of the Hub: ORG/NAME that is nothing here, and no weights file."""
    is_name = not is_address(name) and parse_hub(name, plain="model") is not None
    return is_name and not name.endswith(".safetensors") and not os.path.lexists(name)


def model_path(name: str) -> Path:
    """Where the model called `name` is: what lies here under this name, else `ready`, else one of the Hub."""
    if name == READY and not os.path.lexists(name):
        return Path(__file__).parents[2] / READY
    return download_model(name) if is_hub_model(name) else Path(name)


def download_model(name: str, **options: Any) -> Path:
    """The folder of a model, from the cache of huggingface_hub where it is there; CheckpointError if not.

    `options` are those of snapshot_download. Files that are no part of a bundle stay where they are: nothing
    that could be unpickled comes along.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    model = parse_hub(name, plain="model")
    assert model
    try:
        return Path(snapshot_download(model.repo, revision=model.revision, allow_patterns=_FILES, **options))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        what, todo = hub_error(error, "model")
        raise CheckpointError(name, f"no run or file here, and {what}", todo) from error


def web_address(address: str) -> tuple[str, dict[str, str]]:
    """Where a request goes, and the headers it needs: files of the Hub have a web address."""
    if not address.startswith("hf://"):
        return address, {}
    file = parse_hub(address)
    if not file or not file.path:
        raise ConfigError(address, "not an address on the Hub", "write hf://datasets/ORG/NAME@REVISION/PATH")
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(file.repo, file.path, repo_type=file.kind, revision=file.revision)
    return url, build_hf_headers()


def pinned(address: str) -> str:
    """An address on the Hub at the commit that its revision names now; any other address as it is."""
    there = parse_hub(address.rstrip("/"))
    if not there or (there.revision and _COMMIT.fullmatch(there.revision)):
        return address
    from huggingface_hub import HfApi

    def ask() -> str | None:
        return HfApi().repo_info(there.repo, repo_type=there.kind, revision=there.revision).sha

    commit = with_retries(address, ask)
    assert commit
    return f"{there.at(commit)}/{there.path}".rstrip("/")


def hub_error(error: BaseException, kind: str) -> tuple[str, str]:
    """(what is wrong, what to do) when the Hub did not give a `kind`: a model, a data set."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RevisionNotFoundError

    one: BaseException | None = error
    while one is not None:
        if isinstance(one, OfflineModeIsEnabled):
            return (
                "the Hub is switched off (HF_HUB_OFFLINE)",
                "unset HF_HUB_OFFLINE, or download it elsewhere",
            )
        if isinstance(one, GatedRepoError):
            return (
                f"the Hub gives this {kind} to those who accept its terms",
                "do so there, then `hf auth login`",
            )
        if isinstance(one, RevisionNotFoundError):
            return f"the Hub has no such revision of this {kind}", "check what follows the @"
        if status := status_of(one):
            if status in (401, 403, 404):
                what = f"the Hub has no such {kind}, or it is private (HTTP {status})"
                return what, "check the name, or `hf auth login` with an account that may read it"
            return f"the Hub answers with an error (HTTP {status})", "try again later"
        one = one.__cause__
    what = f"the Hub cannot be reached: no network? ({type(error).__name__})"
    return what, "check the name and the connection, then run the same command again"
