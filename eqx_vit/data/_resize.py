"""Resizing of images for training. Needs no JAX, for it runs in the processes that
load."""

import numpy as np
from PIL import Image

from ._pixels import as_image, Pixels


try:
    import cykooz_resizer as fast
except ImportError:  # it is faster than Pillow, with nearly the same picture
    fast = None


# Pillow's filters under the names of the other.
_FILTERS = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "catmull_rom",
    Image.Resampling.LANCZOS: "lanczos3",
}


def resized(
    pixels: Pixels, image_size: tuple[int, int], interpolation: str
) -> Image.Image:
    """Return an image in another size, with antialiasing.

    cykooz_resizer does it where it is installed, with pixels at most two levels of 255
    from those of Pillow 13. (What is evaluated is resized by Pillow.)

    **Arguments:**

    - `pixels`: An image of 1 or 3 channels.
    - `image_size`: The new `(height, width)`.
    - `interpolation`: The filter, a name in `PIL.Image.Resampling`.
    """
    height, width, channels = pixels.shape
    new_height, new_width = image_size
    resample = Image.Resampling[interpolation.upper()]
    if (height, width) == (new_height, new_width):
        return as_image(pixels)
    is_plain = channels in (1, 3) and pixels.dtype == np.uint8
    if fast is None or not is_plain or resample not in _FILTERS:
        return as_image(pixels).resize((new_width, new_height), resample)
    kind = fast.PixelType.U8 if channels == 1 else fast.PixelType.U8x3
    filter = fast.FilterType[_FILTERS[resample]]
    options = fast.ResizeOptions(fast.ResizeAlg.convolution(filter))
    image = fast.ImageData(width, height, kind, pixels.tobytes())
    # In two calls, since rounding between the passes depends on their order: Pillow 13
    # resizes the width first, unless the height shrinks by more than twice as much.
    down, across = height - new_height, width - new_width
    is_high = down > 0 and down > 2 * across
    between = (new_height, width) if is_high else (height, new_width)
    resizer = fast.Resizer()
    for next_height, next_width in (between, (new_height, new_width)):
        source, image = image, fast.ImageData(next_width, next_height, kind)
        resizer.resize(source, image, options)
    mode = "L" if channels == 1 else "RGB"
    return Image.frombytes(mode, (new_width, new_height), image.get_buffer())
