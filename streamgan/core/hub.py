"""Models on the Hugging Face Hub: `ORG/NAME`, perhaps with `@REVISION`, as a local folder."""

import os
import re
from pathlib import Path
from typing import Any

from .errors import CheckpointError

BUNDLED = "model.safetensors"  # what colours, in a bundle (inference/bundle.py)
_MODEL = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
_FILES = ["*.safetensors", "*.json", "*.yaml", "README.md", "LICENSE"]


def is_hub_model(name: str) -> bool:
    """Whether `name` can be a model of the Hub: ORG/NAME that is nothing here, and no weights file."""
    return bool(_MODEL.fullmatch(name)) and not name.endswith(".safetensors") and not os.path.lexists(name)


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
        reason = " ".join(str(error).split())[:200]
        what = f"no checkpoint here, and not to be had from the Hub ({type(error).__name__}: {reason})"
        raise CheckpointError(name, what, "give a run folder, or ORG/NAME and `hf auth login`") from error
