"""Networks of minima and maxima are read as such, exactly, however they are written."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_network, relu_network, sampled

import jaxcert as jc
from jaxcert.box import Box
from jaxcert.model import Model
from jaxcert.trace.lattice import Lattice, NormalForm
from jaxcert.witness.exact import ExactNetwork

MINIMUM = np.array([[1.0, -1, 1, -1], [1, -1, -1, 1]], np.float32)
OF_MINIMUM = np.array([0.5, -0.5, -0.5, -0.5], np.float32)
WRITINGS = {
    "four neurons": lambda p, a, b: jax.nn.relu(jnp.stack([a, b]) @ p["in"]) @ p["out"],
    "one neuron": lambda p, a, b: a - jax.nn.relu(a - b),
    "two neurons": lambda p, a, b: (
        0.5 * (a + b - jax.nn.relu(a - b) - jax.nn.relu(b - a))
    ),
    "magnitude": lambda p, a, b: 0.5 * ((a + b) - jnp.abs(a - b)),
    "minimum": lambda p, a, b: jnp.minimum(a, b),
    "least": lambda p, a, b: jnp.min(jnp.stack([b, a])),
}


def tree(writing: str, seed: int, count: int = 12):
    """Minima and maxima of any two earlier values, the last three of them, and params.

    Weights have few digits, so that float64 computes the function without rounding.
    """
    rng = np.random.default_rng(seed)
    minimum = WRITINGS[writing]
    pairs = [
        (int(rng.integers(2 + i, 4 + i)), int(rng.integers(2 + i)))
        for i in range(count)
    ]
    greater = rng.integers(0, 2, count).astype(bool)

    def f(p, x):
        values = list(x @ p["w"] + p["b"])
        for (i, j), is_greater in zip(pairs, greater, strict=True):
            a, b = values[i], values[j]
            values.append(-minimum(p, -a, -b) if is_greater else minimum(p, a, b))
        return jnp.stack(values[-3:])

    params = {
        "w": rng.integers(-64, 65, (2, 4)).astype(np.float32) / 16,
        "b": rng.integers(-64, 65, 4).astype(np.float32) / 16,
        "in": MINIMUM, "out": OF_MINIMUM,
    }  # fmt: skip
    return f, params


def at(form: NormalForm, x: list[Fraction]) -> list[Fraction]:
    """Returns the outputs of a normal form."""
    terms = [Fraction(1), *x]
    for row in form.relus:
        terms.append(max(Fraction(0), total(row, terms)))
    return [total(row, terms) for row in form.outputs]


def total(row, terms) -> Fraction:
    return sum((c * terms[i] for i, c in row.items()), Fraction(0))


def exact_outputs(model: Model, x: np.ndarray) -> list[Fraction]:
    """Returns what exact arithmetic on the traced function says."""
    found = ExactNetwork(model.program, model.double).output(Box(x, x))  # type: ignore[arg-type]
    assert found is not None
    return found.lo.fractions()


def points(seed: int, count: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(-512, 513, (count, 2)) / 128.0


SPEC = jc.Spec(
    np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, 0.5]]),  # type: ignore[arg-type]
    np.array([0.25, 1.0, -3.0]),  # type: ignore[arg-type]
    np.array([0, 1, 1], np.int32),  # type: ignore[arg-type]
    2,
)


def margin(y: list[Fraction]) -> Fraction:
    rows = [
        sum((Fraction(c) * v for c, v in zip(row, y, strict=True)), Fraction(d))
        for row, d in zip(SPEC.coefficients.tolist(), SPEC.offset.tolist(), strict=True)
    ]
    return min(rows[0], max(rows[1:]))


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("seed", sampled(range(20), 2))
def test_a_tree_is_the_lattice_of_its_margin(writing: str, seed: int):
    """Values are used more than once, and several outputs are of the same ones."""
    f, params = tree(writing, seed)
    model = Model(f, params, (2,))
    form = model.normal_form
    assert form is not None
    lattice = form.lattice(SPEC)
    assert lattice is not None
    for x in points(seed):
        y = exact_outputs(model, x)
        assert at(form, [Fraction(v) for v in x]) == y
        leaves = lattice.weights @ x[:, None] + lattice.offset[:, None]
        assert Fraction(lattice.value(leaves)[0]) == margin(y)
    for row in np.eye(3):
        alone = form.lattice(jc.Spec.rows(row[None], np.zeros(1)))
        assert alone is not None and alone.size <= 4 + 12


def test_all_writings_are_one_lattice():
    spec, lattices = jc.Spec.rows(np.eye(3)[-1:], np.ones(1)), []
    for writing in WRITINGS:
        form = Model(*tree(writing, 1), (2,)).normal_form
        assert form is not None
        lattices.append(form.lattice(spec))
    first = lattices[0]
    assert first is not None and len(first.levels) > 2
    for other in lattices[1:]:
        assert other is not None
        jax.tree.map(np.testing.assert_array_equal, parts(first), parts(other))


def parts(lattice: Lattice):
    """Returns all that a lattice consists of."""
    return lattice.weights, lattice.offset, lattice.levels


@pytest.mark.parametrize("seed", sampled(range(40), 6))
def test_what_is_nearly_a_minimum_is_read_as_what_it_is(seed: int):
    """A weight off by 2^-20, of another sign, or 0: the same numbers as exact ones."""
    rng = np.random.default_rng(seed)
    f, params = tree("four neurons", seed, count=4)
    spoiled = params[rng.choice(["in", "out"])].copy()
    place = tuple(rng.integers(spoiled.shape))
    weight = spoiled[place]
    spoiled[place] = rng.choice([weight + 2.0**-20, -weight, 0])
    key = "in" if spoiled.ndim == 2 else "out"
    model = Model(f, {**params, key: spoiled}, (2,))
    form = model.normal_form
    assert form is not None
    lattice = form.lattice(jc.Spec.rows(np.eye(3)[:1], np.zeros(1)))
    differs = False
    for x in points(seed):
        y = exact_outputs(model, x)
        assert at(form, [Fraction(v) for v in x]) == y
        differs |= y != exact_outputs(Model(f, params, (2,)), x)
        if lattice is not None:
            leaves = lattice.weights @ x[:, None] + lattice.offset[:, None]
            value = lattice.value(leaves)[0]
            assert abs(Fraction(value) - y[0]) < Fraction(1, 2**40)
    assert differs


def test_matrices_slices_and_axes():
    """What moves elements, and products whose moving factor stands on either side."""

    def f(p, x):
        rows = jnp.broadcast_to(x[None, :, None], (2, 3, 2)) * p["scale"]
        planes = jnp.einsum("kim,kin->kmn", rows, p["w"]).transpose(2, 0, 1)
        last = jnp.einsum("nk,kmi->nmi", p["mix"], planes[:, :, :2])
        joined = jnp.concatenate([last[1:], planes], axis=0)
        least = jnp.minimum(joined[:, 0], 2.0 - joined[:, 1])
        one = jnp.maximum(x[0] - x[0] + 1, 0) - jnp.maximum(x[1] - x[1] - 1, 0)
        return jnp.maximum(least[:2], least[2:4]).reshape(-1) - one - x[0]

    rng = np.random.default_rng(0)
    shapes = {"scale": (3, 2), "w": (2, 3, 2), "mix": (3, 2)}
    params = {
        name: rng.integers(-8, 9, shape).astype(np.float32) / 4
        for name, shape in shapes.items()
    }
    model = Model(f, params, (3,))
    form = model.normal_form
    assert form is not None and form.relus
    names = {e.name for e in model.program.typed.equations}
    assert names >= {"broadcast_in_dim", "transpose", "slice", "concatenate", "mul"}
    for x in rng.integers(-64, 65, (5, 3)) / 16.0:
        assert at(form, [Fraction(v) for v in x]) == exact_outputs(model, x)


def test_other_functions_are_no_lattices():
    few = jc.Spec.rows(np.eye(2)[:1], np.zeros(1))
    deep = Model(relu_network, random_network((2, 6, 2), 0), (2,))
    assert deep.normal_form is not None and deep.normal_form.lattice(few) is None
    for sizes in ((2, 40, 2), (20, 3, 2)):
        assert (
            Model(relu_network, random_network(sizes, 0), sizes[:1]).normal_form is None
        )
    w = np.eye(2, dtype=np.float32)
    for f in (
        lambda w, x: jnp.tanh(w @ x),
        lambda w, x: (w @ x) * x,
        lambda w, x: (w.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)).astype(x.dtype),
        lambda w, x: jnp.maximum((w * 1.1) @ x, 0),  # weights that are computed
        lambda w, x: jnp.maximum(w @ x, -jnp.inf),
    ):
        assert Model(f, w, (2,)).normal_form is None
    tiny = w * np.float32(2.0**-140)
    assert Model(lambda w, x: jnp.maximum(w @ x, 0), tiny, (2,)).normal_form is None
