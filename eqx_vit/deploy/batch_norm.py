from collections.abc import Callable

import equinox as eqx
import jax

from ..layers import Stateless
from ..training.adapters import merge_lora


@eqx.filter_jit  # or each shape of weights is compiled by itself
def _fused(model, state):
    def can_fuse(module):
        return hasattr(module, "fuse")

    return jax.tree.map(
        lambda module: module.fuse(state) if can_fuse(module) else module,
        eqx.nn.inference_mode(merge_lora(model)),
        is_leaf=can_fuse,
    )


def fuse_batch_norm(model: Callable, state: eqx.nn.State) -> Callable:
    """A model for inference whose batch normalisations are part of the layers around
    them: the same logits with less to compute, and without a state.

    **Arguments:**

    - `model`, `state`: As returned by `equinox.nn.make_with_state(Model)(...)`.

    **Returns:**

    A pytree, called as `model(image)`. It does not train. A model without batch
    normalisation is returned in `equinox.nn.inference_mode`. Adapters are merged, see
    [`eqx_vit.merge_lora`][].

    **Raises:**

    A `ValueError` if a batch normalisation stands by itself, in a model of your own.
    """

    def is_index(leaf):
        return isinstance(leaf, eqx.nn.StateIndex)

    model = _fused(model, state)
    leaves, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_index)
    left = [jax.tree_util.keystr(path) for path, leaf in leaves if is_index(leaf)]
    if left:
        raise ValueError(
            f"`model` keeps a state that no layer can take up: {', '.join(left)}. Put "
            "a `BatchNorm` and the layer before it in an `eqx_vit.layers.BatchNormed`."
        )
    return Stateless(model) if isinstance(model, eqx.nn.StatefulLayer) else model
