"""From images of every kind to pixels, as a viewer shows them."""

import io

import eqx_vit
import numpy as np
import pytest
from eqx_vit.data import (
    _pixels,
    _resample,
    as_image,
    ImageFiles,
    read_digit,
    to_pixels,
)
from eqx_vit.data._pixels import decode
from eqx_vit.data._resample import resized
from eqx_vit.data.preprocessing import normalise
from PIL import ExifTags, Image


RAMP = np.arange(256)[None].repeat(4, 0)  # of 8 bits, dark to light
GREY, RED = (0, 51, 255), (255, 0, 0)


def ramp(dtype, scale):
    return Image.fromarray((RAMP * scale).astype(dtype))


# A grey ramp in every mode that holds one, and what it is as bytes.
GREYS = {
    "L": ramp(np.uint8, 1),
    "I;16": ramp(np.uint16, 257),
    "I;16B": ramp(">u2", 257),
    "I of 16 bits": ramp(np.int32, 257),
    "I of 8 bits": ramp(np.int32, 1),
    "F in [0, 1]": ramp(np.float32, 1 / 255),
    "F in [0, 255]": ramp(np.float32, 1),
    "LA": ramp(np.uint8, 1).convert("LA"),
    "La": ramp(np.uint8, 1).convert("LA").convert("La"),
}


@pytest.mark.parametrize("mode", GREYS)
def test_a_grey_image_keeps_its_range(mode):
    pixels = to_pixels(GREYS[mode])
    assert pixels.dtype == np.uint8 and np.array_equal(pixels[..., 0], RAMP)


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_a_coloured_image_keeps_its_colour(mode):
    image = Image.new("RGB", (3, 2), RED).convert("RGBA" if mode == "RGBa" else "RGB")
    pixels = to_pixels(image.convert(mode))
    assert pixels.shape == (2, 3, 3) and abs(pixels - np.array(RED)).max() <= 2


def test_a_palette_and_a_bitmap():
    palette = Image.new("RGB", (3, 2), RED).convert("P")
    assert to_pixels(palette)[0, 0].tolist() == list(RED)
    assert to_pixels(Image.new("1", (3, 2), 1)).tolist() == [3 * [[255]]] * 2


def reopened(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def test_files_of_16_bits_and_of_floats():
    for kind in ("PNG", "TIFF", "PPM"):
        assert np.array_equal(to_pixels(reopened(GREYS["I;16"], kind))[..., 0], RAMP)
    floats = reopened(GREYS["F in [0, 1]"], "TIFF")
    assert np.array_equal(to_pixels(floats)[..., 0], RAMP)
    # However dark, a file of 16 bits is not one of 8.
    dark = Image.fromarray(np.full((2, 2), 200, np.uint16))
    assert to_pixels(reopened(dark, "PPM")).max() == 1


STROKE = np.zeros((4, 4, 2), np.uint8)
STROKE[1:3, 1:3, 1] = 255  # black on nothing


def clear(mode):
    image = Image.fromarray(STROKE, "LA")
    return (
        image.convert("RGBA").convert(mode) if mode == "RGBa" else image.convert(mode)
    )


def with_a_clear_colour(mode, colour):
    """Black with a stroke of a colour that its file declares transparent."""
    image = Image.new(mode, (4, 4))
    if mode == "P":
        image.putpalette([0, 0, 0, *RED])
    image.paste(colour, (1, 1, 3, 3))
    return reopened(image, transparency=colour)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "La", "RGBa"])
def test_what_is_transparent_is_white(mode):
    pixels = to_pixels(clear(mode))
    assert pixels.shape[-1] == (1 if mode in ("LA", "La") else 3)
    assert (pixels[1:3, 1:3] == 0).all() and (pixels[0] == 255).all()


@pytest.mark.parametrize("mode, colour", [("RGB", RED), ("L", 7), ("1", 1), ("P", 1)])
def test_a_colour_that_stands_for_nothing_is_white(mode, colour):
    image = with_a_clear_colour(mode, colour)
    pixels = to_pixels(image)
    assert (pixels[1:3, 1:3] == 255).all()
    assert (pixels[0] == 0).all()
    assert (to_pixels(Image.new("PA", (2, 2), (0, 0))) == 255).all()


def test_half_of_the_background_shines_through():
    half = Image.new("RGBA", (1, 1), (100, 0, 0, 128))
    assert abs(to_pixels(half)[0, 0] - np.array([177, 127, 127])).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_camera_says(orientation, tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    shown = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud}
    shown |= {5: lambda x: x.T, 6: lambda x: np.rot90(x, -1)}
    shown |= {7: lambda x: np.rot90(x, 2).T, 8: np.rot90}
    found = ImageFiles([tmp_path / "turned.png"], np.zeros(1, np.int32), "a").read(0)
    assert np.array_equal(found[..., 0], shown[orientation](np.asarray(image)))


@pytest.mark.parametrize(
    "array, legal",
    [
        (np.full((2, 2), 70_000, np.int32), "0, 65535"),
        (np.full((2, 2), -1, np.int32), "0, 65535"),
        (np.full((2, 2), 1.7, np.float32), "0, 1"),
        (np.full((2, 2), 300, np.float32), "0, 255"),
        (np.full((2, 2), np.nan, np.float32), "NaN or infinite"),
    ],
)
def test_values_of_no_range_are_refused(array, legal):
    with pytest.raises(ValueError, match=legal):
        to_pixels(Image.fromarray(array))


def test_lab_is_refused():
    with pytest.raises(ValueError, match="mode LAB"):
        to_pixels(Image.new("LAB", (2, 2)))


def test_the_first_frame_of_an_animation():
    frames = [Image.new("L", (2, 2), shade) for shade in GREY]
    moving = reopened(frames[1], "GIF", save_all=True, append_images=frames)
    assert abs(int(to_pixels(moving)[0, 0, 0]) - GREY[1]) <= 1


def test_preprocess_and_digits_read_the_same_way(tmp_path):
    record = eqx_vit.zoo["vit_tiny_patch16_384"]
    image = Image.fromarray(np.full((400, 400), 65535, np.uint16))
    assert np.allclose(eqx_vit.preprocess(record, image), 1)
    clear("RGBA").resize((28, 28), 0).save(tmp_path / "stroke.png")
    digit = read_digit(tmp_path / "stroke.png")[..., 0]
    assert digit[14, 14] == 1 and digit[0, 0] == 0  # light on dark


# JPEG files are decoded by simplejpeg: to the pixels of Pillow.


def jpeg(mode="RGB", size=(75, 50), **settings):
    """A JPEG file of noise on colours."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    noise = rng.integers(0, 20, (size[1], size[0], 3), np.uint8)
    image = np.asarray(colours.resize(size)) // 2 + noise
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", **settings)
    return file.getvalue()


ROTATED = Image.Exif()
ROTATED[ExifTags.Base.Orientation] = 6
FILES = {
    "4:4:4": jpeg(subsampling=0),
    "4:2:2": jpeg(subsampling=1),
    "4:2:0": jpeg(subsampling=2, quality=40),
    "progressive": jpeg(progressive=True),
    "odd": jpeg(size=(1, 17)),
    "grey": jpeg("L"),
    "CMYK": jpeg("CMYK"),
    "RGB": jpeg(keep_rgb=True),
    "rotated": jpeg(exif=ROTATED),
    "with bytes behind it": jpeg() + b"more",
}


@pytest.mark.parametrize("name", FILES)
def test_a_jpeg_file_has_the_pixels_of_pillow(name):
    with Image.open(io.BytesIO(FILES[name])) as image:
        assert np.array_equal(decode(FILES[name]), to_pixels(image))


def test_plain_jpeg_files_are_decoded_without_pillow(monkeypatch):
    monkeypatch.setattr(_pixels, "to_pixels", None)
    assert decode(FILES["4:2:0"]).shape == (50, 75, 3)


@pytest.mark.parametrize(
    "least,size",
    [((24, 40), (24, 40)), ((6, 9), (6, 10)), ((25, 5), (48, 80)), ((99, 9), (48, 80))],
)
def test_a_jpeg_file_is_decoded_at_a_fraction_of_its_size(least, size):
    data = jpeg(size=(80, 48))
    pixels, whole = decode(data, least), decode(data)
    assert pixels.shape == (*size, 3) and whole.shape == (48, 80, 3)
    small = Image.fromarray(whole).resize(size[::-1], Image.Resampling.BOX)
    assert abs(np.asarray(small).astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("name", ["grey", "CMYK", "rotated"])
def test_other_files_have_no_fewer_pixels_than_wanted(name):
    found = decode(FILES[name], (20, 20)).shape
    assert min(found[:2]) >= 20


def test_a_jpeg_file_that_ends_early_is_refused():
    with pytest.raises(OSError, match="truncated"):
        decode(FILES["4:4:4"][:900])


def test_normalised_pixels_are_those_of_the_formula():
    pixels = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = normalise(pixels, mean, std)
    mean, std = np.array(mean, np.float32), np.array(std, np.float32)
    assert np.array_equal(found, (np.float32(pixels) / 255 - mean) / std)


# Training resizes by cykooz_resizer: to Pillow's picture.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box"])
@pytest.mark.parametrize(
    "shape", [(200, 300), (300, 33), (20, 300), (20, 20), (32, 64), (1, 9)], ids=str
)
def test_a_resized_image_is_pillows(shape, interpolation, channels):
    # (Black and white, so that the order of the passes counts.)
    pixels = 255 * np.random.default_rng(0).integers(0, 2, (*shape, channels), np.uint8)
    image = as_image(pixels)
    filter = Image.Resampling[interpolation.upper()]
    plain = np.asarray(image.resize((64, 32), filter)).astype(int)
    ours = resized(pixels, (32, 64), interpolation)
    assert ours.mode == image.mode
    assert abs(np.asarray(ours) - plain).max() <= 2


def test_numbers_are_not_resized_as_bytes():
    with pytest.raises(TypeError, match="data type"):
        resized(np.zeros((20, 30, 3)), (8, 8), "bicubic")


def test_it_is_pillow_that_resizes_where_the_other_is_missing(monkeypatch):
    pytest.importorskip("cykooz_resizer")
    pixels = decode(FILES["4:4:4"])
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "resize", None)
        ours = resized(pixels, (32, 32), "bicubic")
    monkeypatch.setattr(_resample, "fast", None)
    plain = resized(pixels, (32, 32), "bicubic")
    exact = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
    assert plain.tobytes() == exact.tobytes() != ours.tobytes()
