"""Images to train and test on. Needs the extra `train`."""

from .._lazy import attach as _attach


__getattr__, __dir__, __all__ = _attach(__name__)
