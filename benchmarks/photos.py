"""The photo of the benchmark, in several sizes."""

from io import BytesIO

import skimage.data
from PIL import Image, ImageOps

from augu_api.photos import MAX_BYTES


def photo(megapixels: float) -> Image.Image:
    """A 4:3 photo; a large one has fewer shades so that its PNG stays below 5 MB."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5 / 4) * 4 if megapixels != 0.3 else 640
    astronaut = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]  # half of it has types
    image = astronaut.resize((width, width * 3 // 4), Image.Resampling.BICUBIC)
    for bits in (8, 6, 5, 4, 3):
        shaded = ImageOps.posterize(image, bits)
        if len(png(shaded)) <= MAX_BYTES:
            return shaded
    raise ValueError(megapixels)


def png(image: Image.Image) -> bytes:
    """The image as a PNG."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
