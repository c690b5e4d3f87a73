"""YAML as text: what is written is what is meant, and the types of the settings say the rest.

YAML 1.1 reads `0100` as 64, `1:30` as 90, `no` as false, `1e-4` as text and `2024-01-01` as a date. Here
every plain scalar is text, but for null; `setting_types.py` makes numbers and truths of it where a setting is
one.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError, file_error

_NULL = ("", "~", "null", "Null", "NULL")


class _Loader(yaml.SafeLoader):
    """Text, null, lists and maps, with anchors and merge keys; a key that is there twice is an error."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  as PyYAML has it

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # before merge keys bring what may be overridden
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value} is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)$"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])


def read_yaml(path: str | Path, *, example: str) -> Any:
    """What a YAML file holds; ConfigError if it cannot be read. `example`: what --config is for."""
    try:
        data = Path(os.path.expanduser(path)).read_bytes()
    except FileNotFoundError:
        raise ConfigError(path, "no such file", f"give --config {example}") from None
    except OSError as error:
        raise file_error(error, path, what="not readable", kind=ConfigError) from error
    try:
        return parse(data)
    except ValueError as error:
        raise ConfigError(path, f"not readable as YAML ({error})", "correct the file") from error


def parse(data: bytes | str) -> Any:
    """The value of a YAML document; ValueError says in which line it is wrong."""
    try:
        return yaml.load(data, _Loader)
    except yaml.reader.ReaderError as error:
        line = data[: error.position].count(b"\n" if isinstance(data, bytes) else "\n") + 1  # type: ignore[arg-type]
        raise ValueError(f"line {line}: {error.reason}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        reason = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise ValueError(f"line {line}: {reason}") from error
    except RecursionError:
        raise ValueError("nested too deep") from None
    except (LookupError, AttributeError) as error:
        raise ValueError("a value is not what its tag says (!!bool, !!int, ...)") from error


def parse_value(text: str) -> Any:
    """The value of KEY=VALUE: a list, a map or quoted text as in YAML; null; or the text as it stands."""
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return parse(text)
    return None if text in _NULL else text
