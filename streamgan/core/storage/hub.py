"""Models by name as local folders: `ready`, which comes with streamgan, and those of the Hugging Face Hub.

On the Hub a model is `ORG/NAME`, perhaps with `@REVISION`; errors are told in words.
"""

import os
import re
from pathlib import Path
from typing import Any

from streamgan.core.errors import CheckpointError

from .remote import status_of

READY = "ready"  # the bundle in this package
BUNDLED = "model.safetensors"  # what colours, in a bundle (inference/bundle.py)
_MODEL = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
_FILES = ["*.safetensors", "*.json", "*.yaml", "README.md", "LICENSE"]


def is_hub_model(name: str) -> bool:
    """Whether `name` can be a model of the Hub: ORG/NAME that is nothing here, and no weights file."""
    return bool(_MODEL.fullmatch(name)) and not name.endswith(".safetensors") and not os.path.lexists(name)


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

    match = _MODEL.fullmatch(name)
    assert match
    try:
        return Path(
            snapshot_download(match["repo"], revision=match["revision"], allow_patterns=_FILES, **options)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        what, todo = hub_error(error, "model")
        raise CheckpointError(name, f"no run or file here, and {what}", todo) from error


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
