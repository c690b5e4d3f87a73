"""Which columns of a table hold images, gray twins and captions, by their names and types."""

from dataclasses import dataclass

import pyarrow as pa

from streamgan.core.errors import ConfigError

IMAGE_NAMES = ("image",)
GRAY_NAMES = ("conditioning_image", "grayscale_image")
TEXT_NAMES = ("text", "caption")


@dataclass(frozen=True)
class Wanted:
    """Which columns are read, and under which names (None: the first of the usual ones)."""

    image: str | None = None
    gray: str | None = None
    text: str | None = None
    keep_gray: bool = True
    keep_text: bool = False


@dataclass(frozen=True)
class Column:
    """An image column: `nested` for the Hub's struct {bytes, path}, otherwise plain binary."""

    name: str
    nested: bool


def find_column(
    path: str, schema: pa.Schema, wanted: str | None, names: tuple[str, ...], role: str
) -> str | None:
    """The column `wanted`, or the first of `names` that there is; ConfigError if it is there twice."""
    if wanted is not None and wanted not in schema.names:
        what = f"no column {wanted!r} (got {', '.join(schema.names)})"
        raise ConfigError(path, what, f"change --columns {role}={wanted}")
    found = wanted or next((name for name in names if name in schema.names), None)
    if schema.names.count(found) > 1:
        raise ConfigError(path, f"has two columns {found!r}", "write it again with a name for each")
    return found


def _is_binary(kind: pa.DataType) -> bool:
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def image_column(path: str, schema: pa.Schema, name: str) -> Column:
    """A column of encoded images; ConfigError if it holds something else."""
    kind = schema.field(name).type
    if isinstance(kind, pa.StructType):
        children = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        if "bytes" in children and pa.types.is_binary_view(children["bytes"]):
            what = f"column {name!r} holds {kind}, which pyarrow does not read in pieces"
            raise ConfigError(path, what, "write it again with binary in place of binary_view")
        if "bytes" in children and _is_binary(children["bytes"]):
            return Column(name, nested=True)
    if _is_binary(kind):
        return Column(name, nested=False)
    raise ConfigError(
        path, f"column {name!r} holds {kind}, not encoded images", "choose a column of image files"
    )


def text_column(path: str, schema: pa.Schema, name: str) -> str:
    """A column of captions; ConfigError if it holds something else."""
    kind = schema.field(name).type
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not is_text and not _is_binary(kind):
        raise ConfigError(path, f"column {name!r} holds {kind}, not text", "change --columns text=NAME")
    return name


def leaves(column: Column) -> list[str]:
    """Paths of the parquet columns that an image column is stored in."""
    return [f"{column.name}.bytes", f"{column.name}.path"] if column.nested else [column.name]
