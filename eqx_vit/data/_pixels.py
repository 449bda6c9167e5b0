"""Pixels of any image that Pillow opens. Needs no JAX, for it runs in the
processes that load."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps


try:
    import simplejpeg
except ImportError:  # it is faster than Pillow, with the same pixels
    simplejpeg = None


Pixels = UInt8[np.ndarray, "height width channels"]

# The background of transparent images.
BACKGROUND = 255

_GREY = ("1", "L", "LA", "La")


def decode(data: bytes, least_size: tuple[int, int] | None = None) -> Pixels:
    """Return the pixels of a file that Pillow reads, as
    [`eqx_vit.data.to_pixels`][] does.

    JPEG files are decoded by simplejpeg where it is installed, which is faster.

    **Arguments:**

    - `data`: The bytes of the file.
    - `least_size`: A `(height, width)` that will do. simplejpeg then decodes a larger
        JPEG file at a half, a quarter or an eighth of its size; by default at all of
        it.

    **Raises:** as there; an `OSError` for a damaged file.
    """
    with Image.open(io.BytesIO(data)) as image:
        pixels = _jpeg(data, image, least_size)
        return to_pixels(image) if pixels is None else pixels


def _jpeg(
    data: bytes, image: Image.Image, least_size: tuple[int, int] | None
) -> Pixels | None:
    """The pixels of a JPEG file; `None` for what Pillow has to see to."""
    is_plain = image.format == "JPEG" and image.mode in ("RGB", "L")
    if simplejpeg is None or not is_plain:
        return None
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None
    height, width = least_size or (image.height, image.width)
    shrinks = lambda by: image.height >= by * height and image.width >= by * width
    by = next((by for by in (8, 4, 2) if shrinks(by)), 1)
    try:
        return simplejpeg.decode_jpeg(
            data,
            "GRAY" if image.mode == "L" else "RGB",
            min_height=-(-image.height // by),
            min_width=-(-image.width // by),
        )
    except ValueError:  # it is damaged: Pillow makes something of it, or says how
        return None


def to_pixels(image: Image.Image) -> Pixels:
    """Return the pixels of an image, as a viewer would show it.

    - The orientation that a camera noted (EXIF) is applied.
    - Transparent parts are blended with white.
    - Grey images of 16 bits (`I;16`, and `I` with values up to 65,535) are scaled to
      8 bits; so are floats (`F`) in [0, 1]. Floats of Pillow's own range, [0, 255],
      are rounded.
    - Of an animation, or of a file of many pages, the current frame is taken: the
      first one, of a file that was just opened.
    - Palettes, CMYK, YCbCr and HSV become RGB. Colour profiles are ignored, as by timm.

    **Arguments:**

    - `image`: A Pillow image of any mode but `LAB`.

    **Returns:**

    Bytes of shape `(height, width, 1)` for a grey image, else `(height, width, 3)`.

    **Raises:**

    A `ValueError` for values that no range of the above holds, or for `LAB`.
    """
    is_from_file = image.format is not None  # which a transposed copy forgets
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_numbers(image, is_from_file)
    if image.mode == "LAB":
        raise ValueError(
            "An image of mode LAB has no colours that Pillow can convert; save it as "
            "RGB."
        )
    is_grey = image.mode in _GREY
    mode = "L" if is_grey else "RGB"
    if not image.has_transparency_data:
        return with_channels(np.asarray(image.convert(mode)))
    # (Pillow converts `La`, whose grey is multiplied by its opacity, to `LA` alone.)
    clear = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
    colour = BACKGROUND if is_grey else 3 * (BACKGROUND,)
    background = Image.new(mode, image.size, colour)
    opacity = clear.getchannel("A")
    blended = Image.composite(clear.convert(mode), background, opacity)
    return with_channels(np.asarray(blended))


def _from_numbers(image: Image.Image, is_from_file: bool) -> Pixels:
    """A grey image of more than 8 bits."""
    array = np.asarray(image).astype(np.float64)
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(array).all():
        raise ValueError("An image has values that are NaN or infinite.")
    if image.mode.startswith("I;16"):
        highest = 65535
    elif image.mode == "I":  # from a file it holds 16 bits, however dark it is
        highest = 65535 if is_from_file or high > 255 else 255
    else:
        # (Between the two it is neither: no photograph of 8 bits is so dark.)
        highest = 1 if high < 16 else 255
    if not 0 <= low <= high <= highest:
        legal = "[0, 1] or [0, 255]" if image.mode == "F" else "[0, 65535]"
        raise ValueError(
            f"An image of mode {image.mode} has values from {low:g} to {high:g}; they "
            f"must be in {legal}. Scale them, or save the image with 8 or 16 bits."
        )
    pixels = np.round(array * (255 / highest)).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        pixels[array == clear] = BACKGROUND
    return pixels[..., None]


def with_channels(array: np.ndarray) -> Pixels:
    """An image that may lack its one channel, with it."""
    return array[..., None] if array.ndim == 2 else array


def as_image(pixels: Pixels) -> Image.Image:
    """Return an image as one of Pillow's, grey if it has one channel.

    **Arguments:**

    - `pixels`: An image of 1 or 3 channels.
    """
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def as_channels(
    pixels: Pixels, channels: int
) -> UInt8[np.ndarray, "height width new_channels"]:
    """Return an image with as many channels as a model takes.

    **Arguments:**

    - `pixels`: An image of 1 or 3 channels.
    - `channels`: 1 or 3. A grey image is repeated, a coloured one is made grey (by the
        luma of ITU-R 601, as Pillow does).
    """
    if pixels.shape[-1] == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    if pixels.shape[-1] == 3 and channels == 1:
        luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
        return np.round(luma).astype(np.uint8)[..., None]
    return pixels
