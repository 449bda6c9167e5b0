import numpy as np
from jaxtyping import Array


# Images come as NumPy arrays too.
AnyArray = Array | np.ndarray
