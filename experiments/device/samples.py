"""Samples per second of randomized smoothing, by how many are classified at once.

python -m device samples --output=OUT
"""

from __future__ import annotations

import dataclasses
import statistics

import jax
import numpy as np
from studies.throughput.networks import standard

from device.rows import Rows, peak_bytes, timed
from jaxcert.commands.options import REQUIRED, Options, folder, option
from jaxcert.smoothing import Gaussian, Smoother, SmoothingOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `samples`."""

    model: str = option("cnn", "A network of the study `throughput`.")
    inputs: int = option(64, "Inputs that are counted for together.", least=1)
    n: int = option(10_000, "Samples of each.", least=1)
    batches: tuple[int, ...] = option((250, 16_000, 64_000), "Noisy inputs at once.")
    seconds: float = option(1.0, "Least time of each figure.", above=0)
    output: str = folder(REQUIRED)


def main(request: Request) -> int:
    """Runs the measurement; returns its exit code."""
    rows = Rows(request.output)
    network = standard(request.model).network
    shape = (request.inputs, *network.input_shape)
    x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    key = jax.random.key(0, impl="threefry2x32")
    for batch in request.batches:
        options = SmoothingOptions(Gaussian(0.25), n0=1, n=request.n, batch_size=batch)
        smoother = Smoother(network.apply, network.params, options)
        tally = smoother.fixed(x, 0)

        def run(smoother: Smoother = smoother, tally=tally) -> np.ndarray:
            return smoother.advance(tally, key, x).counts

        middle = statistics.median(timed(run, request.seconds))
        assert int(run().sum()) == request.inputs * request.n
        rows.add(
            "smoothing", network=network.name, batch_size=batch, seconds=middle,
            samples=request.inputs * request.n, peak_bytes=peak_bytes(),
            per_second=request.inputs * request.n / middle,
        )  # fmt: skip
    return 0
