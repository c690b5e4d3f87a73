"""What a folder says about the files in it: `meta.json` of a checkpoint, `config.json` of a bundle."""

import json
from pathlib import Path

from streamgan.core.storage.files import canonical_sha256, sha256_file

from .errors import CheckpointError

_LISTS = {"meta.json": "streamgan-checkpoint", "config.json": "streamgan-bundle"}  # file: its format


def require_list(folder: Path) -> None:
    """CheckpointError if nothing in a folder says what the weights in it are to be."""
    if not any((folder / name).is_file() for name in _LISTS):
        what = f"has weights, but neither {' nor '.join(_LISTS)}, which says whether they are whole"
        raise CheckpointError(folder, what, _TODO)


def check_file(path: Path) -> None:
    """CheckpointError if a file is not as the checkpoint or bundle in which it lies says.

    A file on its own passes, and one in a bundle that was written before bundles had digests.
    """
    for name, kind in _LISTS.items():
        list_path = path.parent / name
        if not list_path.is_file():
            continue
        try:
            about = json.loads(list_path.read_bytes())
            if not isinstance(about, dict) or about.get("format") != kind:
                continue
            seal = about.pop("digest", None)
            if seal is not None and seal != canonical_sha256(about):
                raise CheckpointError(list_path, "damaged: its digest is another", _TODO)
            digest = about.get("files", {}).get(path.name, {}).get("sha256")
        except (ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(list_path, f"damaged ({error!r})", _TODO) from error
        if digest is not None and sha256_file(path) != digest:
            raise CheckpointError(path, f"damaged: its sha256 is not the one in {name}", _TODO)


_TODO = "take it again from where it came, or use another checkpoint"
