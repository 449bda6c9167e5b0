"""Images to train and test on. Needs `pip install 'eqx_vit[train]'`."""

from ..preprocessing import Centre as Centre
from ._augment import Augmentation as Augmentation, OPERATIONS as OPERATIONS
from ._digits import (
    Dataset as Dataset,
    digits as digits,
    imagenet_classes as imagenet_classes,
    read_digit as read_digit,
)
from ._images import (
    ArrayImages as ArrayImages,
    HubImages as HubImages,
    ImageFiles as ImageFiles,
    Images as Images,
    open_data as open_data,
    Splits as Splits,
)
from ._loader import (
    Channels as Channels,
    pixel_statistics as pixel_statistics,
    test_batches as test_batches,
    training_batches as training_batches,
)
