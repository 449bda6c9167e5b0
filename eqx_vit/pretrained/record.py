from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx

from ..families import family_of
from ..layers import pair


# The label sets of published models, by their number of classes.
_LABEL_SETS = {
    100: "CIFAR-100",
    1000: "ImageNet-1k",
    11221: "ImageNet-21k-P",
    11821: "ImageNet-12k",
    21841: "ImageNet-22k",
    21842: "ImageNet-22k-1k-first",
    21843: "ImageNet-21k",
    115217: "Bamboo",
}


@dataclass(frozen=True)
class Record:
    """A published checkpoint.

    - `name`: As [`eqx_vit.create_model`][] takes it.
    - `model`: The class.
    - `settings`: The arguments of the class, but for `num_classes` and `channels`.
    - `num_classes`: The size of its output; 0 is a model without a head, which returns
        features.
    - `source`: A Hugging Face hub id, the address of a file, or of a page where
        the file can be had, or a folder; `None` if there are no published weights.
    - `file`: The name of the file in a hub repository.
    - `revision`: The commit of the hub repository, where it is known. To pin one,
        `weights=fetch(dataclasses.replace(record, revision="..."))` with
        [`eqx_vit.pretrained.fetch`][].
    - `licence`: The licence of the weights, where it is known.
    - `image_size`: The `(height, width)` of its images in pixels. For another,
        `dataclasses.replace(record, image_size=(256, 256))`.
    - `mean`, `std`: The statistics that pixels in [0, 1] are normalised with: three
        numbers each, or one for grey images.
    - `crop`: The side of the centre that is kept, as a share of the resized image.
    - `crop_mode`: `"center"`, which keeps the aspect ratio, or `"squash"`, which does
        not; with `"_floor"` behind it the centre is cut where transformers cuts it.
    - `interpolation`: `"bicubic"`, `"bilinear"` or `"box"`.
    - `top1`: The published accuracy on ImageNet-1k in per cent, where there is one.
    - `parameters`: The published number of parameters in millions.
    - `paper`: The paper's address, where there is one.
    - `classes`: The names of its classes, where a repository names them.
    - `antialias`: Whether its position embeddings are interpolated for images of
        another size with antialiasing, as timm does, or without, as transformers does.
    """

    name: str
    model: type[eqx.Module]
    settings: Mapping[str, Any] = field(repr=False)
    num_classes: int
    source: str | None
    file: str | None
    revision: str | None
    licence: str | None
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float
    crop_mode: str
    interpolation: str
    top1: float | None
    parameters: float | None
    paper: str | None
    classes: tuple[str, ...] | None = field(default=None, repr=False)
    antialias: bool = True

    @property
    def label_set(self) -> str | None:
        """The label set of its classes, `"ImageNet-1k"`; `None` for a model
        without a head, and for one whose output is an embedding, as CLIP's."""
        return _LABEL_SETS.get(self.num_classes)

    @property
    def direct(self) -> bool:
        """Whether `source` is the address of a file, and no page for a browser."""
        source = self.source or ""
        return source.startswith("https://") and source.endswith(
            (".npz", ".pth", ".tar")
        )

    def arguments(
        self,
        num_classes: int | None = None,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
    ) -> dict[str, Any]:
        """The arguments of `model`, all but `key`.

        **Arguments:**

        - `num_classes`, `image_size`, `channels`: Others than the published. An
            architecture that takes images of any size has no argument `image_size`.
        """
        arguments = dict(self.settings)
        arguments["num_classes"] = (
            self.num_classes if num_classes is None else num_classes
        )
        if channels is not None:
            arguments["channels"] = channels
        if image_size is not None:
            size_arguments = family_of(self.model).size_arguments
            arguments |= size_arguments(self.settings, pair(image_size))
        return arguments
