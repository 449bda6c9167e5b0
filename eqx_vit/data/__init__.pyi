from ._augment import (
    Augmentation as Augmentation,
    ForDevice as ForDevice,
    OPERATIONS as OPERATIONS,
)
from ._classes import match_classes as match_classes, with_classes as with_classes
from ._digits import Dataset as Dataset, digits as digits, read_digit as read_digit
from ._folder import (
    image_files as image_files,
    images_without_classes as images_without_classes,
)
from ._imagenet import (
    classes_of as classes_of,
    imagenet as imagenet,
    imagenet_aliases as imagenet_aliases,
    imagenet_classes as imagenet_classes,
    imagenet_places as imagenet_places,
    imagenet_real as imagenet_real,
    imagenet_subset as imagenet_subset,
    ImageNetClass as ImageNetClass,
)
from ._images import (
    ArrayImages as ArrayImages,
    HubImages as HubImages,
    ImageFiles as ImageFiles,
    Images as Images,
    Part as Part,
    Splits as Splits,
)
from ._loader import (
    Batch as Batch,
    Batches as Batches,
    Channels as Channels,
    count_channels as count_channels,
    evaluation_batches as evaluation_batches,
    NONE_READABLE as NONE_READABLE,
    pixel_statistics as pixel_statistics,
    reader as reader,
    training_batches as training_batches,
    why_unreadable as why_unreadable,
)
from ._names import (
    first_of as first_of,
    listed as listed,
    sorted_classes as sorted_classes,
)
from ._pixels import (
    as_channels as as_channels,
    as_image as as_image,
    Pixels as Pixels,
    to_pixels as to_pixels,
)
from ._random_access import SourceImages as SourceImages
from ._selection import LABEL_KINDS as LABEL_KINDS
from ._shards import is_pattern as is_pattern, ShardImages as ShardImages
from ._sources import (
    open_data as open_data,
    open_part as open_part,
    open_parts as open_parts,
)
from ._splits import divided as divided, evaluation_split as evaluation_split
from .preprocessing import Centre as Centre
