"""Augmentation of single images for training. Needs no JAX, for it runs in
the processes that load."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ._pixels import as_channels, as_image, Pixels, with_channels
from ._resample import resized, slid
from .preprocessing import normalise


Operation = Callable[[Image.Image, float], Image.Image]
# Of a rectangle: top, left, height, width.
Box = tuple[int, int, int, int]
NO_BOX = (0, 0, 0, 0)


GREY = 128  # where an operation leaves no image


def _shear(image: Image.Image, slope: float) -> Image.Image:
    return slid(image, slope * (np.arange(image.height) + 0.5), GREY)


def _translate(image: Image.Image, share: float) -> Image.Image:
    return slid(image, np.full(image.height, share * image.width), GREY)


def _upright(operation: Operation) -> Operation:
    """An operation on rows, done to columns."""
    turn = Image.Transpose.TRANSPOSE
    return lambda image, level: operation(image.transpose(turn), level).transpose(turn)


def _solarize_add(image: Image.Image, amount: int) -> Image.Image:
    table = [min(255, i + amount) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    grey = GREY if image.mode == "L" else 3 * (GREY,)
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=grey)


# The operations of RandAugment in timm's "increasing" order of strength, with which
# DeiT was trained. `level` is the strength in [0, 1], of either sign where both signs
# make sense (`_SIGNED`).
OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "invert": lambda image, level: ImageOps.invert(image),
    "rotate": lambda image, level: _rotate(image, 30 * level),
    "posterize": lambda image, level: _posterize(image, 4 - int(4 * level)),
    "solarize": lambda image, level: ImageOps.solarize(image, 256 - int(256 * level)),
    "solarize_add": lambda image, level: _solarize_add(image, int(110 * level)),
    "color": lambda image, level: ImageEnhance.Color(image).enhance(_factor(level)),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(
        _factor(level)
    ),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(
        _factor(level)
    ),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(
        _factor(level)
    ),
    "shear_x": lambda image, level: _shear(image, 0.3 * level),
    "shear_y": _upright(lambda image, level: _shear(image, 0.3 * level)),
    "translate_x": lambda image, level: _translate(image, 0.45 * level),
    "translate_y": _upright(lambda image, level: _translate(image, 0.45 * level)),
}
_SIGNED = ("rotate", "color", "contrast", "brightness", "sharpness")
_SIGNED += ("shear_x", "shear_y", "translate_x", "translate_y")


def _factor(level: float) -> float:
    return max(0.1, 1 + 0.9 * level)


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    # Pillow takes no 0, at which nothing is left of the image.
    return (
        image.point([0] * 256 * len(image.getbands()))
        if bits == 0
        else (ImageOps.posterize(image, bits))
    )


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop, flip, RandAugment or 3-Augment, and random erasing of an
    image, then normalisation: the recipes of DeiT and DeiT III, on Pillow.

    (No kept library has it without PyTorch or a restrictive licence; its operations and
    their strengths are timm's.)

    - `image_size`: `(height, width)` for the model.
    - `mean`, `std`: Mean and deviation of pixels in [0, 1], per channel.
    - `scale`: The least and the largest share of the image's area that is cropped.
    - `ratio`: The least and the largest ratio of the crop's width to its height.
    - `flip`: The probability of mirroring left and right.
    - `rand_augment`: The strength of RandAugment, of 10; 0 is none.
    - `rand_augment_ops`: How many operations are drawn, each done with probability 1/2.
    - `rand_augment_std`: The standard deviation of the strength.
    - `erasing`: The probability of replacing a rectangle by noise.
    - `interpolation`: The filter of resizing, a name in `PIL.Image.Resampling`. The
        package cykooz_resizer, where it is installed, does `bilinear`, `bicubic` and
        `lanczos` faster than Pillow; its pixels are at most two levels of 255 from
        those of Pillow 13.
    - `simple_crop`: Whether the crop is the simple one of DeiT III, in place of `scale`
        and `ratio`: the short side is resized to the model's, four pixels are mirrored
        around the image, and a crop of the model's size is drawn.
    - `three_augment`: The strength of the colour jitter in 3-Augment (DeiT III's is
        0.3); 0 is no 3-Augment. One of grey, solarisation and blur comes before it.
    - `jitter`: The largest turn in degrees, with which go stretches of up to a percent
        and shifts of up to half a percent of the side a degree; 0 is none.

    [RandAugment](https://arxiv.org/abs/1909.13719), [Random
    Erasing](https://arxiv.org/abs/1708.04896),
    [DeiT](https://arxiv.org/abs/2012.12877) table 9,
    [DeiT III](https://arxiv.org/abs/2204.07118) section 3.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rand_augment: float = 9.0
    rand_augment_ops: int = 2
    rand_augment_std: float = 0.5
    erasing: float = 0.25
    interpolation: str = "bicubic"
    jitter: float = 0.0
    simple_crop: bool = False
    three_augment: float = 0.0

    @property
    def least_size(self) -> tuple[int, int]:
        """The `(height, width)` of an image that more pixels do little for: twice that
        for the model, or what leaves as much of the smallest crop as the model takes.
        Larger JPEG files are read at a fraction of their size; a class of your own that
        wants all pixels has `least_size = None`."""
        share = 1.0 if self.simple_crop else max(self.scale[0], 1e-3)
        larger = max(2.0, 1 / math.sqrt(share))
        height, width = (math.ceil(larger * side) for side in self.image_size)
        return height, width

    def __call__(
        self, pixels: Pixels, rng: np.random.Generator
    ) -> Float[np.ndarray, "new_height new_width channels"]:
        """**Arguments:**

        - `pixels`: An image.
        - `rng`: Randomness.

        **Returns:**

        The image for the model, in float32.
        """
        drawn, (top, left, height, width) = self.draw(pixels, rng)
        array = normalise(drawn, self.mean, self.std)
        if height > 0:
            noise = rng.standard_normal((height, width, array.shape[-1]), np.float32)
            array[top : top + height, left : left + width] = noise
        return array

    def draw(self, pixels: Pixels, rng: np.random.Generator) -> tuple[Pixels, Box]:
        """All but the arithmetic: an image not yet normalised, and what to erase of it.

        **Arguments:**

        - `pixels`: An image.
        - `rng`: Randomness.

        **Returns:**

        Bytes for the model, and `(top, left, height, width)` of the rectangle that
        becomes noise; its sides are 0 if there is none.
        """
        if self.jitter > 0:
            pixels = self._jitter(pixels, rng)
        crop = self._simple if self.simple_crop else self._crop
        image = crop(pixels, rng)
        if rng.random() < self.flip:
            image = ImageOps.mirror(image)
        if self.rand_augment > 0:
            image = self._rand_augment(image, rng)
        if self.three_augment > 0:
            image = self._three_augment(image, rng)
        array = with_channels(np.asarray(image))
        is_erased = rng.random() < self.erasing
        return array, _box_to_erase(array, rng) if is_erased else NO_BOX

    def _jitter(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        angle, log_x, log_y, right, down = rng.uniform(-self.jitter, self.jitter, 5)
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        x, y = math.exp(log_x / 100), math.exp(log_y / 100)
        # About the centre; outside of the image it is black.
        a, b, d, e = x * cos, -y * sin, x * sin, y * cos
        height, width, _ = pixels.shape
        c = width / 2 * (1 + right / 100) - a * width / 2 - b * height / 2
        f = height / 2 * (1 + down / 100) - d * width / 2 - e * height / 2
        image = as_image(pixels).transform(
            (width, height),
            Image.Transform.AFFINE,
            (a, b, c, d, e, f),
            Image.Resampling.BILINEAR,
        )
        return with_channels(np.asarray(image))

    def _crop(self, pixels: Pixels, rng: np.random.Generator) -> Image.Image:
        top, left, height, width = self._box_to_keep(pixels, rng)
        kept = pixels[top : top + height, left : left + width]
        return resized(kept, self.image_size, self.interpolation)

    def _box_to_keep(self, pixels: Pixels, rng: np.random.Generator) -> Box:
        height, width, _ = pixels.shape
        if self.scale[0] == 1:  # the whole image, whatever its ratio
            return 0, 0, height, width
        for _ in range(10):
            area = rng.uniform(*self.scale) * width * height
            ratio = math.exp(rng.uniform(*np.log(self.ratio)))
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                left = rng.integers(width - wide, endpoint=True)
                top = rng.integers(height - high, endpoint=True)
                return int(top), int(left), high, wide
        # The largest legal crop, at the centre.
        wide = min(width, round(height * self.ratio[1]))
        high = min(height, round(width / self.ratio[0]))
        return (height - high) // 2, (width - wide) // 2, high, wide

    def _simple(self, pixels: Pixels, rng: np.random.Generator) -> Image.Image:
        height, width = self.image_size
        factor = max(height / pixels.shape[0], width / pixels.shape[1])
        size = round(factor * pixels.shape[0]), round(factor * pixels.shape[1])
        image = resized(pixels, size, self.interpolation)
        array = with_channels(np.asarray(image))
        around = [(4, 4), (4, 4), (0, 0)]
        array = np.pad(array, around, "reflect" if min(size) > 4 else "symmetric")
        top = int(rng.integers(array.shape[0] - height, endpoint=True))
        left = int(rng.integers(array.shape[1] - width, endpoint=True))
        return as_image(array[top : top + height, left : left + width])

    def _three_augment(
        self, image: Image.Image, rng: np.random.Generator
    ) -> Image.Image:
        choice, radius = rng.integers(3), rng.uniform(0.1, 2.0)
        if choice == 0:
            image = ImageOps.grayscale(image).convert(image.mode)
        elif choice == 1:
            image = ImageOps.solarize(image)
        else:
            image = image.filter(ImageFilter.GaussianBlur(radius))
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        strength = self.three_augment
        for place in rng.permutation(3):
            factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
            image = enhancers[place](image).enhance(factor)
        return image

    def _rand_augment(
        self, image: Image.Image, rng: np.random.Generator
    ) -> Image.Image:
        for name in rng.choice(list(OPERATIONS), self.rand_augment_ops):
            if rng.random() < 0.5:
                continue
            level = rng.normal(self.rand_augment, self.rand_augment_std)
            level = min(max(level, 0.0), 10.0) / 10
            if name in _SIGNED and rng.random() < 0.5:
                level = -level
            image = OPERATIONS[name](image, level)
        return image


@dataclass(frozen=True)
class ForDevice:
    """An augmentation whose arithmetic is left to the device, for
    [`eqx_vit.training.normalise`][]: the loader then moves a quarter of the bytes.

    - `augmentation`: The augmentation. Images are given as many channels as it has
        means, as by [`eqx_vit.data.Channels`][].
    """

    augmentation: Augmentation

    @property
    def least_size(self) -> tuple[int, int]:
        """That of the augmentation."""
        return self.augmentation.least_size

    def __call__(
        self, pixels: Pixels, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """**Arguments:** as [`eqx_vit.data.Augmentation`][].

        **Returns:**

        Entries of the batch: `"image"`, bytes; and, if any are erased, `"erased"`, the
        rectangle to erase, `(top, left, height, width)`.
        """
        pixels = as_channels(pixels, len(self.augmentation.mean))
        image, erased = self.augmentation.draw(pixels, rng)
        if self.augmentation.erasing == 0:
            return {"image": image}
        return {"image": image, "erased": np.array(erased, np.int32)}


def _box_to_erase(array: np.ndarray, rng: np.random.Generator) -> Box:
    height, width, _ = array.shape
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * height * width
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if high < height and wide < width:
            top = rng.integers(height - high, endpoint=True)
            left = rng.integers(width - wide, endpoint=True)
            return int(top), int(left), high, wide
    return NO_BOX
