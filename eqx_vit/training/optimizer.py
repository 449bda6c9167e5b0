"""Optax helpers: decay mask, freezing, layer-wise decay, moving average, mapping over
stacks."""

import dataclasses
import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ..families import find_family
from ..layers import (
    BatchNorm,
    Block,
    BlockSequence,
    Conv,
    DepthwiseConv,
    is_stack,
    LayerNorm,
    LayerScale,
    Linear,
    LoRALinear,
    PEG,
    POSITIVE,
    Range,
)


Model = TypeVar("Model", bound=eqx.Module)


def decay_mask(model: PyTree) -> PyTree[bool]:
    """Return where weight decay applies: to the weights of linear layers and
    convolutions only.

    These are the layers of eqx_vit and of `equinox.nn` (`Linear`, `Conv`,
    `ConvTranspose`, `GRUCell`, `LSTMCell`). Biases, normalisations, LayerScale, tokens,
    position embeddings, bias tables, temperatures, and the convolution that
    encodes positions ([`eqx_vit.layers.PEG`][]) are not decayed, as in the published
    recipes:

        optax.adamw(schedule, weight_decay=0.05, mask=eqx_vit.decay_mask)

    **Arguments:**

    - `model`: A model, or a part of one, or its parameters.

    **Returns:**

    The same pytree with a `bool` in place of every array.
    """

    def is_known(module):
        return isinstance(module, _PRODUCTS | PEG)

    def decays(module):
        mask = jax.tree.map(lambda _: False, module)
        if not isinstance(module, _PRODUCTS):
            return mask
        names = [name for name in _WEIGHTS if getattr(module, name, None) is not None]
        where = lambda layer: [getattr(layer, name) for name in names]
        return eqx.tree_at(where, mask, len(names) * [True])

    return jax.tree.map(decays, model, is_leaf=is_known)


# Layers whose weights are factors of products, and what these weights are called.
_LINEAR = Linear | eqx.nn.Linear | eqx.nn.GRUCell | eqx.nn.LSTMCell
_CONV = Conv | DepthwiseConv | eqx.nn.Conv | eqx.nn.ConvTranspose
_PRODUCTS = _LINEAR | _CONV
_WEIGHTS = ("weight", "weight_ih", "weight_hh", "down", "up")


class FrozenState(eqx.Module):
    """The state of [`eqx_vit.freeze`][].

    - `inner`: The state of the optimiser.
    - `patterns`: The paths of the frozen parameters, as they were given.
    """

    inner: Any
    patterns: tuple[str, ...] = eqx.field(static=True)


def freeze(
    optimizer: optax.GradientTransformation, model: PyTree, patterns: Sequence[str]
) -> optax.GradientTransformationExtraArgs:
    """Return an optimiser that leaves a part of a model as it is.

    Frozen parameters get neither updates nor decay, and no moments are kept for them.
    In [`eqx_vit.train_step`][] a module whose parameters are all frozen runs in
    inference mode: its batch normalisations use their running statistics and leave
    them, and it drops nothing. To train the head alone:

        optimizer = eqx_vit.freeze(optax.adamw(1e-3), model, ["*", "!head*"])

    Other links can go around it: `optax.chain`, `optax.MultiSteps`,
    [`eqx_vit.moving_average`][]. (A part that is frozen by other means, such as
    `optax.masked`, stays in training mode.)

    **Arguments:**

    - `optimizer`: From Optax.
    - `model`: The model.
    - `patterns`: The paths of what to freeze, as in a shell: `"patch_embedding*"`,
        `"transformer.blocks.attention*"`. One that begins with `!` takes out of the
        earlier ones what is to be trained.

    **Raises:**

    A `ValueError` for a pattern that no parameter has.
    """
    parameters = eqx.filter(model, is_parameter)
    trained = _trained(model, patterns).values()
    labels = ["trained" if is_trained else "frozen" for is_trained in trained]
    tree = jax.tree.unflatten(jax.tree.structure(parameters), labels)
    partitioned = optax.partition(
        {"trained": optimizer, "frozen": optax.set_to_zero()},
        lambda _: tree,  # which Optax would call itself, for a model can be called
    )

    def init(params) -> Any:
        return FrozenState(partitioned.init(params), tuple(patterns))

    def update(updates, state: Any, params=None, **extra) -> Any:
        updates, inner = partitioned.update(updates, state.inner, params, **extra)
        return updates, FrozenState(inner, state.patterns)

    return optax.GradientTransformationExtraArgs(init, update)


def frozen_in_inference(model: Model, opt_state: PyTree) -> Model:
    """Return a model whose frozen modules are in inference mode.

    **Arguments:**

    - `model`: A model.
    - `opt_state`: The optimiser's state, which says what [`eqx_vit.freeze`][] froze,
        whatever stands around it.
    """
    frozen = _frozen_paths(model, opt_state)
    if not frozen:
        return model

    def visit(module, path):
        paths = [spell_path(path + p) for p, _ in _parameters(module)]
        if paths and frozen.issuperset(paths):
            return eqx.nn.inference_mode(module)
        if not paths or frozen.isdisjoint(paths):
            return module
        is_child = lambda x: x is not module
        children, treedef = jax.tree_util.tree_flatten_with_path(
            module, is_leaf=is_child
        )
        visited = [visit(child, path + child_path) for child_path, child in children]
        return jax.tree.unflatten(treedef, visited)

    return visit(model, ())


def trained_parameters(model: PyTree, opt_state: PyTree) -> PyTree[bool]:
    """Return which leaves of a model are parameters that are not frozen.

    **Arguments:** as `frozen_in_inference`.
    """
    frozen = _frozen_paths(model, opt_state)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: is_parameter(x) and spell_path(path) not in frozen, model
    )


def _frozen_paths(model: PyTree, opt_state: PyTree) -> set[str]:
    """The paths of the parameters that [`eqx_vit.freeze`][] froze."""
    found = _of_kind(opt_state, FrozenState)
    trained = [_trained(model, state.patterns) for state in found]
    return {path for paths in trained for path, trains in paths.items() if not trains}


def _parameters(module: Any) -> list[tuple[tuple, Any]]:
    parameters = eqx.filter(module, is_parameter)
    return jax.tree_util.tree_leaves_with_path(parameters)


def _of_kind(tree: PyTree, kind: type) -> list[Any]:
    is_kind = lambda x: isinstance(x, kind)
    return [x for x in jax.tree.leaves(tree, is_leaf=is_kind) if is_kind(x)]


def layer_numbers(model: PyTree) -> tuple[PyTree[np.ndarray], int]:
    """Return the number of the layer that each parameter belongs to.

    Layer 0 holds all that comes before the first block (the embedding of patches,
    tokens, position embeddings); every block is a layer; what leads from one stage of a
    pyramid to the next belongs to the first block after it; and the last layer is all
    that comes after the last block (normalisation and head). Blocks of two kinds in
    turn count one by one.

    **Arguments:**

    - `model`: A model, its parameters or their shapes. The fields of a module that is
        not registered are read in order.

    **Returns:**

    For every parameter a number, or, in a scanned stack, one for each row of its first
    axis; and the number of layers.
    """
    numbers, parameters = {}, eqx.filter(model, is_parameter)
    blocks = _number(parameters, (), 0, numbers)
    leaves, structure = jax.tree_util.tree_flatten_with_path(parameters)
    tree = jax.tree.unflatten(structure, [numbers[path] for path, _ in leaves])
    return tree, blocks + 2


def _number(x: Any, path: tuple, blocks: int, numbers: dict) -> int:
    """Numbers the parameters of a part, before which there are some blocks; returns how
    many there are after it."""

    def assign(x, path, number):
        for leaf_path, _ in jax.tree_util.tree_leaves_with_path(x):
            numbers[path + leaf_path] = np.asarray(number)

    key = jax.tree_util.GetAttrKey
    if is_stack(x):
        depth, path = x.depth, (*path, key("blocks"))
        if not isinstance(x.blocks, BlockSequence):
            assign(x.blocks, path, blocks + 1 + np.arange(depth))
            return blocks + depth
        period = len(x.blocks.blocks)
        for i, block in enumerate(x.blocks.blocks):
            block_path = (*path, key("blocks"), jax.tree_util.SequenceKey(i))
            assign(block, block_path, blocks + 1 + i + period * np.arange(depth))
        return blocks + depth * period
    if isinstance(x, BlockSequence | Block):
        members = x.blocks if isinstance(x, BlockSequence) else (x,)
        for i, block in enumerate(members):
            middle = (key("blocks"), jax.tree_util.SequenceKey(i))
            block_path = (*path, *middle) if isinstance(x, BlockSequence) else path
            assign(block, block_path, blocks + 1 + i)
        return blocks + len(members)
    if _holds_blocks(x):
        for child_path, child in _children(x):
            blocks = _number(child, path + child_path, blocks, numbers)
        return blocks
    # (Tokens and position embeddings of the whole model, wherever they come in.)
    is_table = len(path) == 1 and not isinstance(x, eqx.Module | tuple)
    assign(x, path, blocks + 1 if blocks and not is_table else 0)
    return blocks


def _holds_blocks(x: Any) -> bool:
    def is_blocks(x):
        return is_stack(x) or isinstance(x, BlockSequence | Block)

    return any(map(is_blocks, jax.tree.leaves(x, is_leaf=is_blocks)))


def _children(x: Any) -> list[tuple[tuple, Any]]:
    """The parts of a module in the order of the forward pass, with their paths."""
    if isinstance(x, tuple):
        return [((jax.tree_util.SequenceKey(i),), part) for i, part in enumerate(x)]
    key = jax.tree_util.GetAttrKey
    fields = [f.name for f in dataclasses.fields(x) if not f.metadata.get("static")]
    parts = {name: getattr(x, name) for name in fields}
    known = find_family(x)
    between = () if known is None else known.between
    children = []
    for name, part in parts.items():
        path = (key(name),)
        if name in between:
            continue
        if not isinstance(part, tuple) or not _holds_blocks(part):
            children.append((path, part))
            continue
        for i, stage in enumerate(part):
            for other in between if i > 0 else []:
                way = (key(other), jax.tree_util.SequenceKey(i - 1))
                children.append((way, parts[other][i - 1]))
            children.append(((*path, jax.tree_util.SequenceKey(i)), stage))
    return children


def layer_decay(model: PyTree, rate: float) -> optax.GradientTransformation:
    """Layer-wise learning rate decay: multiplies the updates of the last
    layer by 1, of the one before by `rate`, before that by `rate**2`, and so on.

    It comes after the optimiser, `optax.chain(optax.adamw(...), layer_decay(model,
    0.75))`, so that the decay of weights slows down too, as in timm and BEiT. See
    [`eqx_vit.training.layer_numbers`][] for the definition of a layer.

    **Arguments:**

    - `model`: The model.
    - `rate`: In (0, 1]; BEiT's 0.65 to 0.75 for fine-tuning.

    **Raises:**

    A `ValueError` if the rate is not in (0, 1].
    """
    usual = "1 means no decay, and 0.75 is usual"
    Range(0, 1, (True, False), usual=usual).check("rate", rate)
    numbers, count = layer_numbers(model)

    def slow(update, number):
        factors = rate ** (count - 1.0 - number)
        factors = factors.reshape(factors.shape + (update.ndim - factors.ndim) * (1,))
        return update * jnp.asarray(factors, update.dtype)

    # (Parameters that another link has masked out are not there.)
    def update(updates, params):
        del params
        return jax.tree.map(
            lambda u, n: u if isinstance(u, optax.MaskedNode) else slow(u, n),
            updates,
            numbers,
            is_leaf=lambda u: isinstance(u, optax.MaskedNode),
        )

    return optax.stateless(update)


class ParameterGroup(NamedTuple):
    """How an optimiser treats a parameter, or a row of one in a scanned stack.

    - `trained`: Whether it is not frozen.
    - `decayed`: Whether its weight decays.
    - `layer`: The number of its layer.
    """

    trained: bool
    decayed: bool
    layer: int


def parameter_groups(
    model: PyTree, frozen: Sequence[str] = ()
) -> dict[ParameterGroup, list[str]]:
    """The groups into which an optimiser with weight decay, layer-wise rate decay and
    frozen parts divides a model. Every parameter is in exactly one.

    **Arguments:**

    - `model`: A model, or its shapes.
    - `frozen`: The `patterns` of [`eqx_vit.freeze`][].

    **Returns:**

    From each group to the paths of its parameters; block 3 of a scanned stack is
    `"transformer.blocks.norm1.weight[3]"`.
    """
    trained = _trained(model, frozen)
    decayed = decay_mask(eqx.filter(model, is_parameter))
    numbers, _ = layer_numbers(model)
    groups = {}
    leaves = jax.tree_util.tree_leaves_with_path(decayed)
    for (path, decays), number, is_trained in zip(
        leaves, jax.tree.leaves(numbers), trained.values(), strict=True
    ):
        for index in np.ndindex(number.shape):
            group = ParameterGroup(is_trained, decays, int(number[index]))
            row = f"[{index[0]}]" if index else ""
            groups.setdefault(group, []).append(spell_path(path) + row)
    return dict(sorted(groups.items()))


def per_layer(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Return an optimiser that sees each layer by itself.

    The parameters of a stack of blocks are one array with a leading axis over the
    blocks. Optimisers that treat every number by itself (SGD, Adam, AdamW, Lion) need
    not know. Those that look at an array as a whole, at its shape or its norm, do:
    LAMB, LARS, Adafactor, Shampoo, clipping by block. Here they are mapped over the
    stacks, and see one block's matrix, vector or kernel at a time:

        optimizer = eqx_vit.training.per_layer(optax.lamb(1e-3))

    Links that need all parameters at once (clipping by the global norm, Prodigy) belong
    outside: `optax.chain(optax.clip_by_global_norm(1.0), per_layer(...))`. For Muon,
    see [`eqx_vit.training.muon_dimensions`][].

    **Arguments:**

    - `optimizer`: From Optax, without state that all parameters share but counters.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def parts(tree):
        """Masks of the arrays with the same leading axes, by these."""
        stacks = _stacks(tree)
        for name in sorted(set(jax.tree.leaves(stacks))):
            axes = len(name.split("x")) if name else 0
            yield name, axes, jax.tree.map(name.__eq__, stacks)

    def pick(tree, mask):
        masked = optax.MaskedNode()
        return jax.tree.map(lambda keep, x: x if keep else masked, mask, tree)

    def mapped(function, axes):
        for _ in range(axes):
            function = jax.vmap(function)
        return function

    def init(params):
        return {
            name: mapped(optimizer.init, axes)(pick(params, mask))
            for name, axes, mask in parts(params)
        }

    def update(updates, state, params=None, **extra):
        def one(updates, state, params):
            return optimizer.update(updates, state, params, **extra)

        new, states = updates, {}
        for name, axes, mask in parts(updates):
            chosen = None if params is None else pick(params, mask)
            found, states[name] = mapped(one, axes)(
                pick(updates, mask), state[name], chosen
            )
            new = jax.tree.map(lambda keep, x, y: y if keep else x, mask, new, found)
        return new, states

    return optax.GradientTransformationExtraArgs(init, update)


def adaptive_clip(clipping: float) -> optax.GradientTransformationExtraArgs:
    """Return a link that clips the gradient of every unit to a share of the norm of its
    weights: adaptive gradient clipping ([arXiv:2102.06171](
    https://arxiv.org/abs/2102.06171)).

    A unit is an output of a linear layer or a convolution, and a bias, a scale or a
    shift as a whole; in a stack, of every block by itself. Norms of weights below 1e-3
    count as 1e-3. It is Optax's `adaptive_grad_clip`, which by itself takes the inputs
    of a layer of Equinox for its units.

    **Arguments:**

    - `clipping`: The largest share, above 0; 0.01 is usual.

    **Raises:**

    A `ValueError` for a share that is not above 0.
    """
    POSITIVE.check("clipping", clipping)
    clip = optax.adaptive_grad_clip(clipping)

    def units_last(tree):
        return jax.tree.map(
            lambda x: x.reshape(len(x), -1).T if x.ndim > 1 else x, tree
        )

    def update(updates, state, params=None):
        found, state = clip.update(units_last(updates), state, units_last(params))
        return jax.tree.map(lambda x, y: x.T.reshape(y.shape), found, updates), state

    return per_layer(optax.GradientTransformation(clip.init, update))


# The axes of the weight of one layer, of whose other arrays there is one; further axes
# in front are axes over the blocks of stacks.
_WEIGHT_AXES = {Linear: 2, LoRALinear: 2, Conv: 4, DepthwiseConv: 4}
_WEIGHT_AXES |= {LayerNorm: 1, BatchNorm: 1, LayerScale: 1}


def _stacks(tree: PyTree) -> PyTree[str]:
    """The sizes of the leading axes over blocks of every array, as
    `"12x2"`; `""` for none."""

    def spelt(shape):
        return "x".join(map(str, shape))

    def visit(module, axes):
        if type(module) in _WEIGHT_AXES:

            def leading(path, x):
                is_weight = path[-1].name in _WEIGHTS
                own = _WEIGHT_AXES[type(module)] if is_weight else 1
                return spelt(x.shape[: x.ndim - own])

            return jax.tree_util.tree_map_with_path(leading, module)
        axes += is_stack(module)
        is_known = lambda x: is_stack(x) or type(x) in _WEIGHT_AXES
        is_child = lambda x: x is not module and is_known(x)
        children, treedef = jax.tree.flatten(module, is_leaf=is_child)
        stacks = [
            visit(child, axes) if is_child(child) else spelt(child.shape[:axes])
            for child in children
        ]
        return jax.tree.unflatten(treedef, stacks)

    return visit(tree, 0)


def muon_dimensions(params: PyTree) -> PyTree:
    """Return which matrices Muon is for, and which of their axes it multiplies by:

        optax.contrib.muon(
            1e-3, consistent_rms=0.2,
            muon_weight_dimension_numbers=eqx_vit.training.muon_dimensions,
        )

    These are the weights of linear layers and (but for depthwise ones) convolutions in
    and between the blocks, each layer of a stack by itself. All else is for Adam, which
    `optax.contrib.muon` has inside: biases, normalisations, tokens, position
    embeddings, what comes before the first block and after the last. (Of a model
    without blocks, all linear layers and convolutions are Muon's.) From
    [Muon](https://kellerjordan.github.io/posts/muon).

    **Arguments:**

    - `params`: A model, its parameters, or their updates.

    **Returns:**

    The same pytree with `optax.contrib.MuonDimensionNumbers` or `None` in place of
    every array.
    """
    numbers, count = layer_numbers(params)
    is_known = lambda x: isinstance(x, Linear | Conv | eqx.nn.Linear | eqx.nn.Conv)

    def dimensions(module, numbers):
        none = jax.tree.map(lambda _: None, module)
        if not is_known(module) or not is_parameter(module.weight):
            return none
        number = np.asarray(numbers.weight)
        if count > 2 and (number.min() == 0 or number.max() == count - 1):
            return none
        if isinstance(module, Conv):  # height width inputs outputs
            axes = optax.contrib.MuonDimensionNumbers((-4, -3, -2), -1)
        elif isinstance(module, eqx.nn.Conv):  # outputs inputs *kernel
            if module.groups > 1:
                return none
            inputs = tuple(range(1, module.weight.ndim))
            axes = optax.contrib.MuonDimensionNumbers(inputs, 0)
        else:  # outputs inputs
            axes = optax.contrib.MuonDimensionNumbers(-1, -2)
        return eqx.tree_at(
            lambda layer: layer.weight, none, axes, is_leaf=lambda x: x is None
        )

    return jax.tree.map(dimensions, params, numbers, is_leaf=is_known)


class AverageState(NamedTuple):
    """The state of [`eqx_vit.moving_average`][]."""

    updates: Array
    average: PyTree
    inner: Any


def moving_average(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformationExtraArgs:
    """Return an optimiser that keeps an exponential moving average of the parameters.

    It goes around all other links, and its state holds the average: checkpoints and
    many devices need nothing more. [`eqx_vit.averaged_model`][] takes it out.

    **Arguments:**

    - `optimizer`: From Optax.
    - `decay`: What stays of the average at a step, in [0, 1); DeiT's 0.99996. In the
        first steps it is at most `(1 + n) / (10 + n)`, so that short runs are not
        averages with their beginning.

    **Raises:**

    A `ValueError` if `decay` is not in [0, 1).
    """
    Range(0, 1, (False, True), usual="a usual value is 0.9999").check("decay", decay)
    inner_update = optax.with_extra_args_support(optimizer).update

    def init(params):
        average = jax.tree.map(jnp.copy, params)
        return AverageState(jnp.zeros((), jnp.int32), average, optimizer.init(params))

    def update(updates, state, params=None, **extra):
        updates, inner = inner_update(updates, state.inner, params, **extra)
        new = eqx.apply_updates(params, updates)
        step = state.updates.astype(jnp.float32)
        share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
        average = jax.tree.map(
            lambda a, p: a + share.astype(a.dtype) * (p - a), state.average, new
        )
        return updates, AverageState(state.updates + 1, average, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def averaged_model(model: Model, opt_state: PyTree) -> Model:
    """Return the model with the average of its parameters, kept by
    [`eqx_vit.moving_average`][] or by `optax.contrib.schedule_free`. (The running
    statistics of batch normalisations are averages already and stay in the state.)

    **Arguments:**

    - `model`: The model.
    - `opt_state`: The optimiser's state. If no average is kept in it, the model is
        returned as it is.
    """
    is_masked = lambda x: isinstance(x, optax.MaskedNode)
    if found := _of_kind(opt_state, AverageState):
        average = found[0].average
    elif found := _of_kind(opt_state, optax.contrib.ScheduleFreeState):
        state = found[0]
        average = jax.tree.map(
            lambda z, p: z if is_masked(z) else (p - (1 - state.b1) * z) / state.b1,
            state.z,
            eqx.filter(model, is_parameter),
            is_leaf=is_masked,
        )
    else:
        return model
    # (Inside of `freeze` frozen parameters have no average.)
    average = jax.tree.map(
        lambda x: None if is_masked(x) else x, average, is_leaf=is_masked
    )
    return eqx.combine(average, model)


def plateau_scale(opt_state: PyTree) -> Float[Array, ""]:
    """Return the factor of the learning rate that `optax.contrib.reduce_on_plateau` has
    come to.

    **Arguments:**

    - `opt_state`: The state of an optimiser that has it.
    """
    return _of_kind(opt_state, optax.contrib.ReduceLROnPlateauState)[0].scale


class NormState(NamedTuple):
    """The state of [`eqx_vit.training.keep_gradient_norm`][]."""

    gradient_norm: Float[Array, ""]


def keep_gradient_norm() -> optax.GradientTransformation:
    """Keep the global norm of the gradient in the optimiser's state.

    The first link of a chain sees the gradient before it is clipped:

        optimizer = optax.chain(keep_gradient_norm(), optax.adamw(1e-3))
        ...
        norm = optax.tree.get(opt_state, "gradient_norm")
    """

    def update(updates, state, params=None):
        del state, params
        return updates, NormState(optax.tree.norm(updates).astype(jnp.float32))

    return optax.GradientTransformation(
        lambda params: NormState(jnp.zeros((), jnp.float32)), update
    )


def _trained(model: PyTree, patterns: Sequence[str]) -> dict[str, bool]:
    """Whether each parameter is trained, by path."""
    parameters = eqx.filter(model, is_parameter)
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    paths = [spell_path(path) for path, _ in leaves]
    frozen = match_paths(paths, "patterns", patterns, "parameter")
    return {path: not is_frozen for path, is_frozen in frozen.items()}


def match_paths(
    paths: Sequence[str], name: str, patterns: Sequence[str], kind: str
) -> dict[str, bool]:
    """Return whether each path is matched by patterns as those of
    [`eqx_vit.freeze`][].

    **Arguments:**

    - `paths`: The paths, in the order of the model.
    - `name`: The name of the argument that has the patterns, for errors.
    - `patterns`: The patterns. One that begins with `!` takes out of the earlier ones.
    - `kind`: The kind of thing that has these paths, for errors.

    **Raises:**

    A `ValueError` for a pattern that no path has.
    """
    if isinstance(patterns, str):
        raise ValueError(
            f"`{name}={patterns!r}` is one string; give a list, [{patterns!r}]."
        )
    found = dict.fromkeys(paths, False)
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        matched = [path for path in paths if fnmatchcase(path, wanted)]
        if not matched:
            nearest = difflib.get_close_matches(wanted, paths, n=1, cutoff=0)
            hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
            raise ValueError(
                f"`{name}` has {pattern!r}, which is the path of no {kind}{hint}."
            )
        found |= dict.fromkeys(matched, pattern == wanted)
    return found


def is_parameter(x: Any) -> bool:
    """Whether it is a parameter, or the shape of one."""
    dtype = getattr(x, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def spell_path(path: tuple) -> str:
    """The path of a part of a model, as [`eqx_vit.freeze`][] has it."""
    return jax.tree_util.keystr(path, simple=True, separator=".")
