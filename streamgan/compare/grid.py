"""The grid image of a comparison: a row for every photo; gray, what each model made of it, truth."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from streamgan.core.storage.files import atomic_write

CELL = 128  # pixels that a photo takes at least
GAP = 4
FONT_SIZE = 14


def draw_grid(columns: dict[str, Image.Image], *, photo_size: int) -> Image.Image:
    """Columns of `photo_size` square photos side by side, each with its name on top, broken at `_`."""
    scale = max(1, -(-CELL // photo_size))
    side = photo_size * scale
    num_photos = max(column.height for column in columns.values()) // photo_size
    font = ImageFont.load_default(FONT_SIZE)
    labels = {name: _broken(name, side, font) for name in columns}
    header = (max(label.count("\n") for label in labels.values()) + 1) * (FONT_SIZE + 4) + GAP
    size = (len(columns) * (side + GAP) + GAP, header + num_photos * (side + GAP))
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    for place, (name, column) in enumerate(columns.items()):
        left = GAP + place * (side + GAP)
        draw.multiline_text((left, GAP // 2), labels[name], fill="black", font=font)
        for row in range(column.height // photo_size):
            box = (0, row * photo_size, photo_size, (row + 1) * photo_size)
            photo = column.crop(box).resize((side, side), Image.Resampling.NEAREST)
            grid.paste(photo, (left, header + row * (side + GAP)))
    return grid


def write_grid(path: Path, columns: dict[str, Path], *, photo_size: int) -> None:
    """The grid of `column.png` files by name."""
    images = {}
    for name, column in columns.items():
        with Image.open(column) as image:
            images[name] = image.convert("RGB")
    with atomic_write(path) as file:
        draw_grid(images, photo_size=photo_size).save(file, "PNG")


def _broken(name: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`name` in lines of at most `width` pixels, where its words allow it."""
    lines = [""]
    for word in name.split("_"):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
