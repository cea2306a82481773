"""What of x is one input: told by what f takes, by labels, or by input_shape."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxcert as jc
from jaxcert.shapes import find_input

W = np.array([[2.0, -1.0], [0.0, 1.0]], np.float32)


def indexed(p, x):
    return jnp.stack([2 * x[0] - x[1], x[1]])


def sliced(p, x):
    return jnp.concatenate([x[:1], x[1:]])


def measured(p, x):
    return jnp.ones((2, x.shape[-1])) @ x


def asserted(p, x):
    assert x.ndim == 1, "one input at a time"
    return x


def looked_up(p, x):
    return {(2,): x}[x.shape]


DENSE = linen.Dense(3)
DENSE_PARAMS = DENSE.init(jax.random.key(0), jnp.zeros(2))


def wide(p, x):
    """Takes any shape there is."""
    return jnp.stack([x.mean(), x.max()])


def batched(w, x):
    (n, _) = x.shape
    return jnp.reshape(x @ w.T, (n, 2))


def find(f, x, params=None, labels=None, given=None):
    labels = None if labels is None else np.asarray(labels)
    return find_input(f, params, np.asarray(x, float), labels, given)


@pytest.mark.parametrize("f", [indexed, sliced, measured, asserted, looked_up, wide])
def test_a_vector_is_one_input(f):
    assert find(f, [0.8, 0.3]) == (True, (2,))
    assert find(f, [[0.8, 0.3]]) == (False, (2,))


def test_a_linen_network_takes_one_input_or_a_batch():
    assert find(DENSE.apply, np.zeros(2), DENSE_PARAMS) == (True, (2,))
    assert find(DENSE.apply, np.zeros((5, 2)), DENSE_PARAMS) == (False, (2,))


def test_certify_takes_an_input_that_f_takes_apart_by_index():
    answer = jc.certify(indexed, {}, jnp.array([0.8, 0.3]))
    # 2 (.8 - r) = 2 (.3 + r) where the margin ends, at r = .25.
    assert answer.lower.shape == ()
    assert answer.lower == pytest.approx(0.25, abs=1e-3)


def test_a_vector_of_scalar_inputs_is_a_batch_where_f_takes_no_vector():
    def scalar(p, x):
        return jnp.stack([x, 1 - x]) if x.ndim == 0 else jnp.ones((2, 2, 2)) @ x

    assert find(scalar, [0.1, 0.2, 0.3]) == (False, ())
    assert find(scalar, 0.1) == (True, ())


def test_labels_tell_a_batch_from_one_input():
    x = np.zeros((3, 2))
    assert find(wide, x, labels=[0, 1, 0]) == (False, (2,))
    assert find(wide, x, labels=0) == (True, (3, 2))
    assert find(wide, np.zeros(3), labels=[0, 1, 0]) == (False, ())


def test_input_shape_settles_it():
    x = np.zeros((3, 2))
    assert find(wide, x, given=(2,)) == (False, (2,))
    assert find(wide, x, given=(3, 2)) == (True, (3, 2))
    message = r"x has shape \(3, 2\), but input_shape is \(4,\): .* or \(n, 4\)"
    with pytest.raises(jc.InputError, match=message):
        find(wide, x, given=(4,))


def test_what_fits_both_ways_is_asked_back():
    message = r"as one input, and as a batch of 3 inputs of shape \(2,\): say which"
    with pytest.raises(jc.InputError, match=message):
        find(wide, np.zeros((3, 2)))


def test_the_errors_of_f_are_shown_with_the_shapes_tried():
    message = (
        r"neither one input of shape \(3,\) \(AssertionError: exactly two\) nor "
        r"a batch of \(\) \(AssertionError: exactly two\)"
    )

    def exact(p, x):
        assert x.shape == (2,), "exactly two\nnot shown"
        return x

    with pytest.raises(jc.InputError, match=message) as error:
        find(exact, np.zeros(3))
    assert "\n" not in str(error.value)
    with pytest.raises(jc.InputError, match="it returns 2 arrays"):
        find(lambda p, x: (x, x), np.zeros(2))
    with pytest.raises(jc.InputError, match=r"it returns shape \(2, 2\), not a vector"):
        find(lambda p, x: jnp.outer(x, x), np.zeros(2))


def test_a_function_of_batches_is_told_how_to_take_one_input():
    message = r"takes a batch of .* \(2,\): pass lambda p, x: f\(p, x\[None\]\)\[0\]"
    for x in (np.zeros(2), np.zeros((5, 2))):
        with pytest.raises(jc.InputError, match=message):
            find(batched, x, W)
    box = jc.Box(np.zeros(2), np.ones(2))
    with pytest.raises(jc.InputError, match=message):
        jc.verify(batched, W, box, jc.Spec.classification(0, 2))
    with pytest.raises(jc.InputError, match="KeyError: .2, 3."):
        jc.verify(looked_up, {}, jc.Box(np.zeros((2, 3)), np.ones((2, 3))),
                  jc.Spec.classification(0, 2))  # fmt: skip
