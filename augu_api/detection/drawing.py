"""Draw boxes and their names over a photo."""

import colorsys
import zlib
from collections.abc import Iterable
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from augu_api.detection import Detection

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def annotate(image: Image.Image, found: Iterable[Detection]) -> Image.Image:
    """A copy of an RGB image with each detection's box, name and percent; the best is drawn last, on top."""
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    thickness = max(2, round(min(image.size) / 200))
    font = ImageFont.load_default(max(12, round(min(image.size) / 30)))
    for detection in sorted(found, key=lambda detection: detection.score):
        colour = colour_of(detection.name)
        draw.rectangle(detection.box, outline=colour, width=thickness)
        _label(draw, detection, font, colour)
    return drawn


def annotated_png(image: Image.Image, found: Iterable[Detection]) -> bytes:
    """The same as a PNG file, which is made fast rather than small."""
    file = BytesIO()
    annotate(image, found).save(file, "PNG", compress_level=1)
    return file.getvalue()


def colour_of(name: str) -> Colour:
    """A bright colour, always the same for a name."""
    hue = zlib.crc32(name.encode()) % 360 / 360
    red, green, blue = (round(255 * channel) for channel in colorsys.hls_to_rgb(hue, 0.6, 0.9))
    return red, green, blue


def ink_on(colour: Colour) -> str:
    """Black or white, whichever reads better on the colour: at least 4.5 to 1 (contrast ratio of WCAG 2.2)."""
    red, green, blue = ((c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _label(draw: ImageDraw.ImageDraw, detection: Detection, font: Font, colour: Colour) -> None:
    """Text on the box's colour, above the box where there is room, inside it elsewhere."""
    text = f"{detection.name} {detection.percent:.0f}"
    x, y, _, _ = detection.box
    _, _, right, bottom = draw.textbbox((3, 2), text, font)
    width, height = right + 3, bottom + 3
    x = max(0, min(x, draw.im.size[0] - width))
    y = y - height if y >= height else y
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 3, y + 2), text, ink_on(colour), font)
