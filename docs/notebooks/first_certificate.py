# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First certificate
#
# How far may every feature of an input move, at once, with the prediction proved
# unchanged? A network of two features shows all that there is.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import jaxcert as jc


def network(params, x):
    hidden = jax.nn.relu(params["w1"] @ x + params["b1"])
    return params["w2"] @ hidden


params = {
    "w1": jnp.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 2.0]]),
    "b1": jnp.array([0.0, -1.0, 0.0]),
    "w2": jnp.array([[1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]),
}
x = np.random.default_rng(0).uniform(size=(20, 2))

# %% [markdown]
# `certify` answers a bracket for every input: the lower end is proved, at the upper end
# a counterexample lies.

# %%
answer = jc.certify(network, params, x)
answer

# %%
print(answer.table())

# %% [markdown]
# Certified accuracy over the radius: below the solid line it is proved, above the
# dashed one refuted. Between them CROWN does not know; branch and bound closes the gap
# with `jc.CertifyOptions(oracle="complete")`.

# %%
answer.plot()

# %% [markdown]
# One input: its box, and the counterexample that lies nearest.

# %%
one = answer[int(np.argmax(answer.lower))]
print("input   ", one.x.round(3))
print("box     ", one.box.lo.round(3), "to", one.box.hi.round(3))
print("witness ", one.witness.round(3))

# %% [markdown]
# The witness has another class, and the corners of the box do not.

# %%
with jax.enable_x64(True):  # in float32 the witness itself is rounded
    logits = np.array(network(params, jnp.asarray(one.witness)))
assert np.delete(logits, one.predicted).max() >= logits[one.predicted]
for corner in (one.box.lo, one.box.hi):
    assert np.argmax(network(params, jnp.float32(corner))) == one.predicted
