"""Images for training, resized or slid. Needs no JAX, for it runs in the processes
that load."""

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from ._pixels import as_image, Pixels, with_channels


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


def slid(
    image: Image.Image, distances: Float[np.ndarray, " height"], colour: int
) -> Image.Image:
    """Return an image whose rows are moved to the left.

    It is what Pillow's affine transformation with the bicubic filter does, but for a
    few values that are rounded to the other side. Pillow's takes four to five times as
    long: it sums 16 pixels for each, of which four count here.

    **Arguments:**

    - `image`: A grey image or one in RGB.
    - `distances`: How many pixels each row is moved.
    - `colour`: What all channels are where the image has gone.

    **Raises:**

    A `TypeError` for an image of another mode.
    """
    if image.mode not in ("L", "RGB"):
        raise TypeError(
            f"An image has mode {image.mode}; it must be L or RGB to be sheared or "
            "translated."
        )
    pixels = with_channels(np.asarray(image))
    height, width, channels = pixels.shape
    whole = np.floor(distances).astype(int)
    part = np.float32(distances - whole)
    # Of each row the pixels from one before the first place to two behind the last.
    # (Beyond an edge its pixel is repeated twice. Nothing farther out is seen.)
    margin = int(abs(whole).max()) + 3
    wide = np.empty((height, width + 2 * margin, channels), np.uint8)
    wide[:, margin : margin + width] = pixels
    wide[:, margin - 2 : margin] = pixels[:, :1]
    wide[:, margin + width : margin + width + 2] = pixels[:, -1:]
    windows = sliding_window_view(
        wide.reshape(height, -1), (width + 3) * channels, axis=1
    )
    rows = windows[np.arange(height), (margin + whole - 1) * channels]
    # Pillow's filter: Keys' cubic convolution with a = -1.
    weights = np.stack(
        [
            -part + 2 * part**2 - part**3,
            1 - 2 * part**2 + part**3,
            part + part**2 - part**3,
            part**3 - part**2,
        ]
    )
    taps = sliding_window_view(np.float32(rows), 3 * channels + 1, axis=1)
    values = np.einsum("hnk,kh->hn", taps[..., ::channels], weights)
    moved = np.clip(values, 0, 255).astype(np.uint8)
    places = np.arange(width) + 0.5 + distances[:, None]
    outside = np.repeat((places < 0) | (places >= width), channels, axis=1)
    np.copyto(moved, colour, where=outside)
    return as_image(moved.reshape(pixels.shape))
