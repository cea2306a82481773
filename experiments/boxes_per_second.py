"""Measures how many boxes per second CROWN bounds, per network and batch size.

    taskset -c 0 python experiments/boxes_per_second.py --models=net.onnx,other.npz

Every box is a ball of --epsilon around an input, clipped to [0, 1]^d, bounded for the
predicted class against all others, in float32. Inputs are random or, with --inputs,
read from a folder of CSV files or an array file and repeated; how many neurons are
undecided, and so the figure, depends on them. It is the median of repeats after a
warm-up; compilation is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import _common
import jax
import numpy as np
from absl import flags

from jaxcert.bounds.crown import CrownOptions, crown
from jaxcert.box import Box
from jaxcert.errors import InputError
from jaxcert.inputs import load_inputs
from jaxcert.models import load_network
from jaxcert.network import Network
from jaxcert.spec import Spec

_MODELS = flags.DEFINE_list("models", [], "Networks, .onnx or checkpoints.")
_INPUTS = flags.DEFINE_string("inputs", None, "CSV folder or array file; else random.")
_BATCHES = flags.DEFINE_list("batches", ["1", "64", "1024"], "Batch sizes.")
_EPSILON = flags.DEFINE_float("epsilon", 0.02, "Radius of the boxes.")
_BUCKET = flags.DEFINE_integer("bucket", 32, "Undecided neurons bounded per step.")
_CHUNK = flags.DEFINE_integer("chunk", 8, "Boxes that go through the layers together.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Least time to measure for.")


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    if not _MODELS.value:
        raise InputError("name at least one network with --models=FILE,FILE")
    device = jax.devices()[0]
    print(f"jax {jax.__version__}, {device.device_kind}, epsilon {_EPSILON.value:g}")
    for path in _MODELS.value:
        network = load_network(path)
        for batch in _BATCHES.value:
            rate = measure(network, int(batch))
            print(f"{network.name:28s} batch {batch:>5s}  {rate:10.0f} boxes/s")
    return 0


def measure(network: Network, batch: int) -> float:
    """Returns boxes per second at one batch size."""
    shape = (batch, *network.input_shape)
    if _INPUTS.value:
        found = load_inputs(_INPUTS.value, network.input_shape).x
        x = np.resize(found, shape).astype(np.float32)
    else:
        x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    method = crown(network.apply, CrownOptions(bucket=_BUCKET.value))
    classes = network.num_outputs

    def one(params, x, radius):
        label = network.apply(params, x).argmax()
        box = Box.ball(x, radius, Box.unit(x.shape))
        return method.lower_rows(params, box, Spec.classification(label, classes))

    @jax.jit
    def many(params, x, radius):
        chunk = min(_CHUNK.value, batch)
        return jax.lax.map(lambda z: one(params, z, radius), x, batch_size=chunk)

    many(network.params, x, _EPSILON.value).block_until_ready()
    spent: list[float] = []
    while sum(spent) < _SECONDS.value or len(spent) < 5:
        begin = time.perf_counter()
        # A radius that changes a little keeps anyone from reusing an answer.
        radius = np.float32(_EPSILON.value * (1 + 1e-4 * len(spent)))
        many(network.params, x, radius).block_until_ready()
        spent.append(time.perf_counter() - begin)
    return batch / float(np.median(spent))


if __name__ == "__main__":
    _common.run(main)
