import jax
from jax.extend import core


def jaxprs_in(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    """The jaxprs that an equation calls: of `jit`, `scan`, custom derivatives."""
    is_jaxpr = lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr)
    jaxprs = filter(is_jaxpr, leaves)
    return [x.jaxpr if isinstance(x, core.ClosedJaxpr) else x for x in jaxprs]
