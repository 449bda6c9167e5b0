import numpy as np
from jaxtyping import Array


# What people have: images come as arrays of NumPy too.
AnyArray = Array | np.ndarray
