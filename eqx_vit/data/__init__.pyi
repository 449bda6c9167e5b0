from ._augment import Augmentation as Augmentation, OPERATIONS as OPERATIONS
from ._classes import match_classes as match_classes, with_classes as with_classes
from ._digits import Dataset as Dataset, digits as digits, read_digit as read_digit
from ._imagenet import (
    classes_of as classes_of,
    imagenet as imagenet,
    imagenet_aliases as imagenet_aliases,
    imagenet_classes as imagenet_classes,
    ImageNetClass as ImageNetClass,
)
from ._images import (
    ArrayImages as ArrayImages,
    divided as divided,
    evaluation_split as evaluation_split,
    HubImages as HubImages,
    image_files as image_files,
    ImageFiles as ImageFiles,
    Images as Images,
    open_data as open_data,
    open_part as open_part,
    open_parts as open_parts,
    Part as Part,
    Splits as Splits,
)
from ._loader import (
    Batches as Batches,
    Channels as Channels,
    count_channels as count_channels,
    evaluation_batches as evaluation_batches,
    pixel_statistics as pixel_statistics,
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
    Pixels as Pixels,
    to_pixels as to_pixels,
)
from .preprocessing import Centre as Centre
