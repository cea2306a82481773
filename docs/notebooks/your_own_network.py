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
# # Your own network
#
# A Flax network, trained on the digits of scikit-learn, certified and reported on.

# %%
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx

import jaxcert as jc
from jaxcert.learning.data import load_dataset

train, test = load_dataset("digits", "train"), load_dataset("digits", "test")


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(64, 16, rngs=rngs)
        self.last = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x.reshape(-1))))


# %% [markdown]
# jaxcert takes a function of the weights and of one input.

# %%
graphdef, params = nnx.split(Net(nnx.Rngs(0)))


def network(params, x):
    return nnx.merge(graphdef, params)(x)


# %%
def loss(params, x, labels):
    logits = jax.vmap(network, (None, 0))(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
def step(params, state, x, labels):
    updates, state = adam.update(jax.grad(loss)(params, x, labels), state)
    return optax.apply_updates(params, updates), state


adam = optax.adam(1e-2)
state = adam.init(params)
for _ in range(200):
    params, state = step(params, state, train.images, train.labels)
logits = jax.vmap(network, (None, 0))(params, test.images)
print(
    f"{np.mean(np.argmax(logits, 1) == test.labels):.1%} of the test images are right"
)

# %% [markdown]
# Certified with CROWN bounds and an attack.

# %%
answer = jc.certify(network, params, test.images[:12], test.labels[:12])
print(answer.table())

# %% [markdown]
# The report is one file that can be mailed.

# %%
path = answer.report(Path(tempfile.mkdtemp()) / "report.html")
print(path.name, path.stat().st_size // 1000, "kB")
assert (answer.lower <= answer.upper).all()
