"""Precision: what f computes in narrow types, in float64, and of its weights alone.

Judges are ml_dtypes and numpy, operation by operation, or the function itself.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import sampled
from flax import linen
from jax import lax

import jaxcert as jc
from jaxcert.bounds.ibp import ibp
from jaxcert.certificate.network_file import network_file
from jaxcert.oracle.bounds import BoundOracle
from jaxcert.trace.floats import (
    float_format,
    half_ulp,
    reduced_format,
    round_to,
    widens,
)
from jaxcert.trace.program import NoiseNode, Program
from jaxcert.trace.tracing import program_of, stated_types, trace

LOW = (
    "bfloat16 float16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e3m4 "
    "float4_e2m1fn"
).split()


def kind(name: str) -> np.dtype:
    return jnp.dtype(name)


def numbers(dtype: np.dtype, seed: int = 0) -> np.ndarray:
    """Numbers around all sizes of a type, below its largest one."""
    rng, info = np.random.default_rng(seed), float_format(dtype)
    low, high = max(info.least_exponent - 6, -100), int(np.log2(info.largest))
    spread = rng.normal(size=4000) * 2.0 ** rng.integers(low, high + 1, 4000)
    return np.concatenate([spread, [0.0, info.largest, 1.5 * info.largest]])


@pytest.mark.optimised
@pytest.mark.parametrize("name", [*LOW, "float32"])
def test_rounding_is_that_of_the_type_and_within_its_half_ulp(name):
    dtype, target = kind(name), float_format(kind(name))
    with jax.enable_x64(True), np.errstate(all="ignore"):
        z = numbers(dtype)
        expected = z.astype(dtype).astype(np.float64)
        got = np.asarray(jax.jit(functools.partial(round_to, target=target))(z))
        bound = np.asarray(half_ulp(jnp.abs(z), target))
    np.testing.assert_array_equal(np.abs(got), np.abs(expected))
    held = np.abs(z) <= target.largest
    assert (np.abs(expected - z)[held] <= bound[held]).all()
    assert np.isinf(bound[~held]).all() and (~held).any()
    # No bound that is merely large: some number is moved by nearly as much.
    assert (np.abs(expected - z)[held] >= 0.9 * bound[held]).any()


def test_which_casts_are_exact():
    exact = [
        ("bfloat16", "float32"), ("float16", "float32"), ("float32", "float64"),
        ("float8_e5m2", "float16"), ("float8_e4m3fn", "bfloat16"),
        ("bfloat16", "bfloat16"),
    ]  # fmt: skip
    lossy = [
        ("float32", "bfloat16"), ("float16", "bfloat16"), ("bfloat16", "float16"),
        ("float64", "float32"), ("float8_e4m3fn", "float8_e5m2"),
    ]  # fmt: skip
    formats = {n: float_format(kind(n)) for pair in exact + lossy for n in pair}
    assert all(widens(formats[a], formats[b]) for a, b in exact)
    assert not any(widens(formats[a], formats[b]) for a, b in lossy)
    single = formats["float32"]
    assert widens(single, reduced_format(8, 23))
    assert not widens(single, reduced_format(8, 22))
    assert not widens(single, reduced_format(7, 23))


def round_trip(name: str):
    dtype = kind(name)
    return lambda p, x: x.astype(dtype).astype(jnp.float32)


def rival(g, threshold: float):
    """Class 0 where g(x) > threshold."""

    def f(p, x):
        return jnp.stack([g(p, x).reshape(-1)[0], jnp.float32(threshold)])

    return f


# x is above the threshold, what f makes of it is below, or the other way round.
CASES = {
    "bfloat16": (round_trip("bfloat16"), 0.5008, 0.5004),
    "float16": (round_trip("float16"), 0.30018, 0.300175),
    "float8_e4m3fn": (round_trip("float8_e4m3fn"), 0.53, 0.51),
    "float8_e5m2": (round_trip("float8_e5m2"), 0.56, 0.53),
    "reduce_precision": (lambda p, x: lax.reduce_precision(x, 8, 2), 0.56, 0.53),
    "exponent": (lambda p, x: 1e6 * lax.reduce_precision(x, 3, 23), 0.2, 1e5),
    "weak": (
        lambda p, x: (x.astype(jnp.bfloat16) * 1.0).astype(jnp.float32),
        0.5008,
        0.5004,
    ),
    "computed": (
        lambda p, x: (x.astype(jnp.bfloat16) + jnp.bfloat16(256)).astype(jnp.float32),
        0.5,
        256.3,
    ),
    "sum": (
        lambda p, x: lax.reduce_sum_p.bind(
            jnp.full(400, x[0], jnp.float8_e5m2), axes=(0,), out_sharding=None
        ).astype(jnp.float32),
        1.0,
        399.0,
    ),
    "overflow": (
        lambda p, x: -(x.astype(jnp.float16) * jnp.float16(60000)).astype(jnp.float32),
        1.2,
        -1e9,
    ),
}


COMPLETE = ("weak", "complete")
EACH = [*((name, "crown") for name in CASES), ("bfloat16", "ibp"), COMPLETE]


@pytest.mark.parametrize(
    "case",
    [*EACH[:-1], pytest.param(COMPLETE, marks=pytest.mark.campaign)],
    ids="-".join,
)
def test_what_low_precision_moves_is_proved_for_no_other_class(case):
    name, oracle = case
    g, at, threshold = CASES[name]
    f, x = rival(g, threshold), np.array([at], np.float32)
    typed = np.argmax(f({}, jnp.asarray(x)))
    options = jc.CertifyOptions(oracle=oracle, attack=None)
    box = jc.Box(x.astype(float) - 1e-5, x.astype(float) + 1e-5)
    other = jc.Spec.classification(1 - typed, 2)
    assert not bool(jc.verify(f, {}, box, other, options=options).proved)


@pytest.mark.parametrize("case", sampled(EACH), ids="-".join)
def test_what_low_precision_moves_is_certified_for_no_other_class(case):
    name, oracle = case
    g, at, threshold = CASES[name]
    f, x = rival(g, threshold), np.array([at], np.float32)
    typed = np.argmax(f({}, jnp.asarray(x)))
    options = jc.CertifyOptions(oracle=oracle, attack=None)
    domain = jc.Box(np.array([0.0]), np.array([2.0]))
    if not np.isfinite(f({}, jnp.asarray(x))).all():
        with pytest.raises(jc.InputError, match="output is not finite"):
            jc.certify(f, {}, x[None], domain=domain, options=options)
        return
    answer = jc.certify(f, {}, x[None], domain=domain, options=options)
    claims = bool((answer.lower > 0).any())
    assert not claims or int(answer.label[0]) == int(typed)


@pytest.mark.parametrize("name", sampled(["bfloat16", "float16", "float8_e4m3fn"]))
def test_far_from_the_threshold_low_precision_is_certified(name):
    f = rival(lambda p, x: 4 * round_trip(name)(p, x), 1.0)
    options = jc.CertifyOptions(attack=None)
    x = np.array([[0.6], [0.9]])
    answer = jc.certify(f, {}, x, input_shape=(1,), options=options)
    assert (answer.lower > 0.15).all()
    # The box stops a rounding before the threshold.
    lowest = answer.box.lo[:, 0]
    z = np.linspace(lowest, np.ones(2), 2000).reshape(-1, 1).astype(np.float32)
    assert (np.asarray(jax.vmap(lambda v: f({}, v))(z)).argmax(1) == 0).all()


def elementwise(name: str):
    return (
        {
            "div": lambda x: x / jnp.asarray(3, x.dtype),
            "cube": lambda x: lax.integer_pow(x, 3),
            "seventh": lambda x: lax.integer_pow(x, 7),
            "rsqrt": lambda x: lax.rsqrt(x + jnp.asarray(1.5, x.dtype)),
            "leaky": lambda x: jax.nn.leaky_relu(x, 0.3),
            "log1p": lambda x: lax.log1p(lax.abs(x)),
            "over": lambda x: lax.logistic(x * jnp.asarray(12, x.dtype)),
        }.get(name)
        or getattr(jax.nn, name, None)
        or getattr(lax, name)
    )


FUNCTIONS = (
    "relu leaky exp expm1 log1p tanh logistic erf sin cos square cube seventh rsqrt "
    "div silu softplus gelu over"
).split()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("function", sampled(FUNCTIONS, 7))
def test_every_number_of_the_type_is_within_bounds(function, name):
    g, dtype = elementwise(function), kind(name)

    def f(p, x):
        return g(x.astype(dtype)).astype(jnp.float32)

    z = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    z = z[np.isfinite(z) & (np.abs(z) <= 1)]
    width = np.float32(1e-3)
    low, high = z - width * np.abs(z), z + width * np.abs(z)
    boxes = jc.Box(jnp.asarray(low)[:, None], jnp.asarray(high)[:, None])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda v: v.astype(jnp.float64), boxes)
        bounds = jax.jit(jax.vmap(lambda b: ibp(f)({}, b)))(wide)
    for run in (f, jax.jit(f)):
        y = np.asarray(run({}, jnp.asarray(z)), np.float64)[:, None]
        # Bounds of float64 do not round outward; the type has 2^-11 and more.
        room = 1e-12 * np.abs(y)
        assert (y >= np.asarray(bounds.lo) - room).all()
        assert (y <= np.asarray(bounds.hi) + room).all()
    # The steps of softplus hold a select for NaN: intervals do not see through it.
    assert np.median(bounds.hi - bounds.lo) < (1.0 if function == "softplus" else 0.15)


def contraction(how: str, dtype, n: int):
    def f(w, x):
        w, x = w.astype(dtype), x.astype(dtype)
        if how == "matmul":
            y = x @ w
        elif how == "conv":
            y = lax.conv(x.reshape(1, 1, -1), w.T.reshape(-1, 1, n), (1,), "VALID")
        elif how == "attention":
            y = x @ (jnp.outer(x, x) @ w)
        elif how == "cumsum":
            y = lax.cumsum(x)
        elif how == "windows":
            y = lax.reduce_window(x, np.zeros((), dtype), lax.add, (n,), (1,), "SAME")
        else:
            y = lax.dot_general(
                x, w, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
            )
        return y.astype(jnp.float32).reshape(-1)

    return f


@pytest.mark.parametrize("name", sampled(["bfloat16", "float16", "float8_e5m2"]))
@pytest.mark.parametrize(
    "how",
    sampled(["matmul", "conv", "attention", "cumsum", "windows", "preferred"], 3),
)
def test_sums_in_narrow_types_lie_within_bounds(how, name):
    if how == "windows" and name == "float8_e5m2":
        pytest.skip("XLA has no such sum on the CPU")
    n, rng = 24, np.random.default_rng(3)
    f = contraction(how, kind(name), n)
    w = rng.normal(size=(n, 5)).astype(np.float32) / 3
    x = rng.uniform(-1, 1, size=n).astype(np.float32)
    box = jc.Box(jnp.asarray(x - 0.01), jnp.asarray(x + 0.01))
    bounds = jax.jit(ibp(f))(w, box)
    by_crown = jax.jit(jc.crown(f))(w, box).concretize(box)
    z = rng.uniform(box.lo, box.hi, (100, n)).astype(np.float32)
    for run in (f, jax.jit(f)):
        y = np.stack([np.asarray(run(w, v)) for v in z])
        for b in (bounds, by_crown):
            assert (y >= b.lo - 1e-5).all() and (y <= b.hi + 1e-5).all()
    program = program_of(f, w, x)
    assert program.noisy
    summed = [n for n in program.nodes if isinstance(n, NoiseNode)]
    # Casting x is one; a sum that is held in float32 brings no other.
    expected = {"preferred": 2, "attention": 4}.get(how)
    assert expected is None or len(summed) >= expected - 1


def test_products_in_bfloat16_state_what_they_assume():
    f = contraction("matmul", jnp.bfloat16, 4)
    w, x = np.zeros((4, 2), np.float32), np.zeros(4, np.float32)
    (line,) = program_of(f, w, x).assumptions
    assert "'dot_general' in bfloat16 (test_precision.py:" in line
    assert "summed in float32 or wider" in line
    wide = contraction("preferred", jnp.bfloat16, 4)
    assert program_of(wide, w, x).assumptions == ()


@pytest.mark.parametrize("preset", ["BF16_BF16_F32", "TF32_TF32_F32", "F16_F16_F16"])
def test_an_algorithm_of_low_precision_is_refused(preset):
    def f(w, x):
        return jnp.dot(x, w, precision=lax.DotAlgorithmPreset[preset])

    w, x = np.ones((3, 2), np.float32), np.ones(3, np.float32)
    with pytest.raises(jc.UnsupportedError, match=f"asks for the algorithm {preset}"):
        program_of(f, w, x)
    allowed = [lax.Precision.DEFAULT, lax.DotAlgorithmPreset.F32_F32_F32, "highest"]
    for precision in allowed:
        program_of(lambda w, x, p=precision: jnp.dot(x, w, precision=p), w, x)


def test_integers_made_of_the_input_are_refused():
    def quantised(p, x):
        return (jnp.round(x * 127).astype(jnp.int8) + jnp.int8(100)).astype(jnp.float32)

    with pytest.raises(jc.UnsupportedError, match="makes a int8 of a value"):
        program_of(quantised, {}, np.ones(2, np.float32))


def test_functions_without_a_known_rounding_are_refused_in_narrow_types():
    def f(p, x):
        return lax.exp2(x.astype(jnp.bfloat16))

    with pytest.raises(jc.UnsupportedError, match="'exp2' .* in bfloat16 is not known"):
        program_of(f, {}, np.ones(2, np.float32))
    program_of(lambda p, x: lax.exp2(x), {}, np.ones(2, np.float32))


def test_quantised_weights_are_computed_as_their_integers_are():
    # 100 + 100 wraps to -56 in int8, and 2^24 + 1 rounds to 2^24 in float32.
    def f(p, x):
        return x * (p["q"] + p["q"]).astype(jnp.float32) + p["n"].astype(jnp.float32)

    params = {"q": np.int8([100]), "n": np.int32([2**24 + 1])}
    program = program_of(f, params, np.ones(1, np.float32))
    with jax.enable_x64(True):
        y = program.evaluate(params, jnp.ones(1, jnp.float64))
    assert float(y[0]) == 2**24 - 56
    assert float(program.evaluate_typed(params, np.ones(1))[0]) == 2**24 - 56


def test_float32_functions_have_neither_noise_nor_assumptions():
    def f(p, x):
        return jax.nn.relu(x @ p["w"].reshape(3, 2)) + p["b"]

    params = {"w": np.ones(6, np.float32), "b": np.ones(2, np.float32)}
    program = program_of(f, params, np.ones(3, np.float32))
    assert not program.noisy and not program.inexact and not program.assumptions
    with jax.enable_x64(True):
        assert all(i >= 0 for i in program.prepare(params, jnp.float64))


class Mixed(linen.Module):
    """A Flax module that computes in bfloat16, as many are trained."""

    convolutional: bool = False

    @linen.compact
    def __call__(self, x):
        if self.convolutional:
            x = linen.Conv(4, (3, 3), dtype=jnp.bfloat16)(x.reshape(1, 4, 4, 1))
            x = linen.relu(x).reshape(-1)
        for width in (12, 12):
            x = linen.relu(linen.Dense(width, dtype=jnp.bfloat16)(x))
        return linen.Dense(3, dtype=jnp.bfloat16)(x).astype(jnp.float32)


@pytest.mark.optimised
@pytest.mark.campaign
@pytest.mark.parametrize("convolutional", [False, True])
def test_boxes_of_a_bfloat16_module_hold_no_point_of_another_prediction(convolutional):
    model, d = Mixed(convolutional), 16 if convolutional else 4
    rng = np.random.default_rng(5)
    params = model.init(jax.random.key(2), jnp.zeros(d))
    x = rng.uniform(size=(24, d)).astype(np.float32)
    options = jc.CertifyOptions(oracle="crown")
    answer = jc.certify(model.apply, params, x, options=options)
    certified = np.flatnonzero(answer.lower > 0)
    assert len(certified) >= 6
    eager = jax.vmap(model.apply, in_axes=(None, 0))
    points = []
    for i in certified:
        lo, hi = answer.box.lo[i], answer.box.hi[i]
        side = rng.integers(0, 2, (600, d)).astype(bool)
        z = np.concatenate([np.where(side, lo, hi), rng.uniform(lo, hi, (600, d))])
        # The float32 numbers inside: a face may lie between two of them.
        low, high = lo.astype(np.float32), hi.astype(np.float32)
        low = np.where(low < lo, np.nextafter(low, np.float32(np.inf)), low)
        high = np.where(high > hi, np.nextafter(high, np.float32(-np.inf)), high)
        points.append(np.clip(z.astype(np.float32), low, high))
    labels = np.repeat(answer.label[certified], 1200)
    for run in (eager, jax.jit(eager)):
        logits = np.asarray(run(params, np.concatenate(points)))
        assert (logits.argmax(1) == labels).all()
    # Witnesses hold in any rounding: in the module's own, one operation at a time.
    for i in np.flatnonzero(np.isfinite(answer.upper)):
        w = answer.witness[i].astype(np.float32)
        with jax.disable_jit():
            assert model.apply(params, w).argmax() != answer.label[i]


def test_evaluate_typed_is_the_function_in_its_own_types():
    model = Mixed()
    params = model.init(jax.random.key(2), jnp.zeros(4))
    program = program_of(model.apply, params, np.zeros(4, np.float32))
    for x in np.random.default_rng(0).uniform(size=(5, 4)):
        with jax.disable_jit():
            expected = model.apply(params, jnp.asarray(x, jnp.float32))
        got = program.evaluate_typed(params, x)
        np.testing.assert_array_equal(got, expected)


def test_a_witness_holds_in_every_way_to_round():
    # Rounded, x is below the threshold; unrounded, above: neither is proved, and the
    # point is no counterexample of either claim.
    f = rival(round_trip("bfloat16"), 0.5004)
    box = jc.Box(np.array([0.5008]), np.array([0.5008]))
    for label in (0, 1):
        verdict = jc.verify(f, {}, box, jc.Spec.classification(label, 2))
        assert not bool(verdict.proved) and not bool(verdict.refuted)
    clear = jc.Box(np.array([0.49]), np.array([0.52]))
    assert bool(jc.verify(f, {}, clear, jc.Spec.classification(0, 2)).refuted)


# --- weights that f computes from params alone ---------------------------------------


def cancelling(p, x):
    """x times a^2 - c, which is 0 in float32 and 2^-24 in real numbers."""
    gain = (p["a"] * p["a"] - p["c"]) * 2.0**24
    return jnp.stack([x[0] * gain - 0.5 * x[0] + 0.3, x[0] * 0.0])


CANCELLING = {"a": np.float32(1 + 2.0**-12), "c": np.float32(1 + 2.0**-11)}


def test_weights_are_computed_in_the_types_that_f_states():
    program = program_of(cancelling, CANCELLING, np.ones(1, np.float32))
    with jax.enable_x64(True):
        run = jax.jit(lambda p, x: program.evaluate(p, x))
        y = run(CANCELLING, jnp.ones(1, jnp.float64))
    assert float(y[0]) == float(np.float32(-0.5) + np.float32(0.3))


@pytest.mark.optimised
@pytest.mark.parametrize("oracle", sampled(["ibp", "complete", "crown"], 2))
def test_nothing_is_proved_that_a_fused_run_would_refute(oracle):
    # Fused, the gain is 1: f is class 0 at x = 1. Operation by operation it is class 1.
    options = jc.CertifyOptions(oracle=oracle, attack=None)
    box = jc.Box(np.array([0.9]), np.array([1.0]))
    for label in (0, 1):
        spec = jc.Spec.classification(label, 2)
        verdict = jc.verify(cancelling, CANCELLING, box, spec, options=options)
        assert not bool(verdict.proved)


STEPS = {
    "products": lambda p: p["a"] @ p["b"].T - p["c"][:3, :3],
    "norm": lambda p: p["a"] / jnp.sqrt(jnp.sum(p["a"] ** 2, axis=1, keepdims=True)),
    "softmax": lambda p: jax.nn.softmax(p["a"], axis=0) - jax.nn.sigmoid(p["b"]),
    "powers": lambda p: jnp.abs(p["a"]) ** 0.3 * lax.integer_pow(p["b"], -3),
    "batch norm": lambda p: p["a"] * lax.rsqrt(jnp.square(p["b"]) + 1e-5) - p["b"],
    "decision": lambda p: jnp.where(p["a"] * p["b"] > p["b"], p["a"], jnp.exp(p["b"])),
    "floor": lambda p: jnp.floor(7 * p["a"] * p["b"]),
    "extremes": lambda p: jnp.maximum(p["a"] * p["b"], jnp.max(p["c"] * 3)),
    "cumsum": lambda p: jnp.cumsum(p["a"] * 0.1, axis=1) + jnp.tanh(p["b"]),
    "waves": lambda p: jnp.sin(3 * p["a"]) * jnp.cos(p["b"] / 7) + jnp.log1p(p["d"]),
    "bfloat16": lambda p: (p["a"].astype(jnp.bfloat16) * 3).astype(jnp.float32),
    "half sum": lambda p: jnp.sum(p["a"].astype(jnp.float16), 1, keepdims=True) / 3
    + p["b"],
    "conv": lambda p: lax.conv(p["a"][None], p["b"][None, :, :2], (1,), "SAME")[0],
    "moves": lambda p: jnp.pad((p["a"] * p["b"]).T[::-1], ((1, 1), (0, 2)))[2:5, :5],
    "gather": lambda p: (p["a"] / 3)[jnp.array([2, 0])][:, jnp.array([1, 1, 4])],
    "clip": lambda p: jnp.clip(p["a"] / p["b"], -1.0, p["c"][0, 0] / 3),
}  # fmt: skip


def leaves(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    draw = {k: rng.normal(size=(3, 5)).astype(np.float32) for k in "abc"}
    return draw | {"d": rng.uniform(size=(3, 5)).astype(np.float32)}


@pytest.mark.optimised
@pytest.mark.parametrize("name", sampled(STEPS, 6))
def test_every_way_to_compute_a_weight_lies_within_its_error(name):
    step = STEPS[name]
    shape = np.shape(jax.eval_shape(step, leaves(0)))

    def f(p, x):
        return (step(p).astype(jnp.float32) * x).reshape(-1)

    program = program_of(f, leaves(0), np.ones(shape, np.float32))
    assert program.inexact and not program.assumptions
    (node,) = [n for n in program.nodes if n.name == "mul"]
    (weight,) = [i for i in node.weights or program.inexact if i in program.inexact][
        -1:
    ]
    for seed in range(20):
        p = leaves(seed)
        with jax.enable_x64(True):
            values = program.prepare(p, jnp.float64)
            value, error = np.asarray(values[weight]), np.asarray(values[~weight])
        with jax.disable_jit():
            eager = np.asarray(step(jax.tree.map(jnp.asarray, p)), np.float64)
        fused = np.asarray(jax.jit(step)(p), np.float64)
        with jax.enable_x64(True):
            real = np.asarray(step(jax.tree.map(lambda v: v.astype(np.float64), p)))
        value, error = value.reshape(shape), error.reshape(shape)
        assert np.isfinite(value).all()
        for other in (eager, fused, real.astype(np.float64)):
            if name == "half sum" and other is real:
                continue
            assert (np.abs(other - value) <= error).all()
        relative = error / (1e-3 + np.abs(value))
        loose = 0.2 if name in ("bfloat16", "half sum") else 1e-3
        assert np.median(relative) < loose


@pytest.mark.parametrize(
    "name, kind, ends",
    [
        ("exp2", "f4", (60, 127)),
        ("sinh", "f4", (-88, -60)),
        ("log1p", "f8", (-0.4142, -0.41)),
    ],
)
def test_what_xla_rounds_many_times_is_charged_for_as_many(name, kind, ends):
    """Against numpy, which rounds about once."""
    step = getattr(jnp, name)
    with jax.enable_x64(True):
        p = np.linspace(*ends, 1000).astype(kind)
        program = program_of(lambda p, x: step(p) * x, p, np.ones(1000, kind))
        values = program.prepare(p, jnp.float64)
        (weight,) = program.inexact
        moved = np.abs(np.asarray(step(p), np.float64) - np.asarray(values[weight]))
        exact = np.abs(getattr(np, name)(p.astype("f8")) - np.asarray(values[weight]))
        error = np.asarray(values[~weight])
    assert (np.maximum(moved, exact) <= error).all()
    assert (error <= 1e-3 * np.abs(values[weight])).all()


def test_moving_weights_about_costs_nothing():
    def f(p, x):
        w = jnp.concatenate([p["a"].T, -p["b"].T], axis=1)[::-1].reshape(3, 10)
        return w[:, jnp.array([1, 3, 5])] @ x + jnp.abs(p["c"][:, 0])

    program = program_of(f, leaves(0), np.ones(3, np.float32))
    assert program.param_steps and not program.inexact and not program.assumptions


def test_a_division_by_a_computed_weight_is_charged():
    def f(p, x):
        return jnp.stack([x[0] / (p["a"] * p["a"] - p["c"]), 0.0 * x[0]])

    params = {"a": np.float32(1.5), "c": np.float32(2.25 - 2.0**-22)}
    options = jc.CertifyOptions(oracle="crown", attack=None)
    spec = jc.Spec.classification(0, 2)
    box = jc.Box(np.array([0.9]), np.array([1.0]))
    # The divisor is 2^-22 with an error of 2^-22 and more: it may be 0.
    assert not bool(jc.verify(f, params, box, spec, options=options).proved)
    params["c"] = np.float32(2.0)
    assert bool(jc.verify(f, params, box, spec, options=options).proved)


def test_steps_whose_rounding_is_unknown_are_named():
    def f(p, x):
        total, _ = lax.scan(lambda c, r: (c * 0.5 + r, None), jnp.zeros(5), p["a"])
        return total * x + jnp.linalg.inv(p["a"][:, :3]).sum()

    lines = program_of(f, leaves(0), np.ones(5, np.float32)).assumptions
    assert any("'scan' (test_precision.py:" in line for line in lines)
    assert any("taken as computed" in line for line in lines)


def test_float32_certificates_refuse_computed_weights_and_casts(tmp_path):
    def plain(p, x):
        return p["w"] @ x

    def computed(p, x):
        return (p["w"] * 0.3) @ x

    def cast(p, x):
        return p["w"] @ x.astype(jnp.bfloat16).astype(jnp.float32)

    params = {"w": np.float32([[1, 2], [3, 4]])}
    x = np.zeros(2, np.float32)
    with jax.enable_x64(True):
        network_file(program_of(plain, params, x), params, "float32")
        network_file(program_of(computed, params, x), params, "real")
        with pytest.raises(jc.UnsupportedError, match="computes weights"):
            network_file(program_of(computed, params, x), params, "float32")
        for arithmetic in ("real", "float32"):
            with pytest.raises(jc.UnsupportedError, match="narrow"):
                network_file(program_of(cast, params, x), params, arithmetic)


def test_real_certificates_speak_of_the_weights_as_f_computes_them():
    params = CANCELLING
    program = program_of(cancelling, params, np.ones(1, np.float32))
    with jax.enable_x64(True):
        file = network_file(program, params, "real")
    weights = np.concatenate(
        [v.ravel() for k, v in file.arrays.items() if k[0] in "wd"]
    )
    assert 1.0 not in weights  # 2^24 (a^2 - c) in real numbers


# --- float64 --------------------------------------------------------------------------


def steep(p, x):
    """relu((1 + 1e-9) x) 1e9 - relu(x) 1e9: x in doubles, 0 in float32."""
    # A constant that f writes down is one of its types, as a weight is.
    y = jax.nn.relu((1 + 1e-9) * x[0]) * p["scale"] - jax.nn.relu(x[0]) * p["scale"]
    return jnp.stack([y, 0.5 + 0 * x[0]])


STEEP = {"scale": np.float64(1e9)}


def traced(f, params, x) -> Program:
    return trace(f, params, x, stated_types(params, x))


def test_trace_honours_the_types_it_is_given():
    x = np.ones(1, np.float32)
    double = traced(steep, STEEP, x)
    assert double.typed.x64 and not double.inexact
    assert float(double.evaluate_typed(STEEP, np.ones(1))[0]) == pytest.approx(1)
    single = traced(steep, jax.tree.map(np.float32, STEEP), x)
    assert not single.typed.x64
    assert float(single.evaluate_typed(STEEP, np.ones(1))[0]) == 0
    low = traced(lambda p, x: x.astype(p.dtype), jnp.ones(1, jnp.bfloat16), x)
    assert low.noisy
    # A Python number does not widen bfloat16: the product is rounded.
    weak = traced(lambda p, x: x.astype(jnp.bfloat16) * p, 1.5, x)
    strong = traced(lambda p, x: x.astype(jnp.bfloat16) * p, np.float32(1.5), x)
    count = [sum(isinstance(n, NoiseNode) for n in p.nodes) for p in (weak, strong)]
    assert count == [3, 1]


def test_float64_is_traced_where_the_caller_enabled_it():
    with jax.enable_x64(True):
        program = traced(lambda p, x: x / 3, {}, np.ones(1, np.float32))
    assert program.typed.x64


def test_narrowing_to_float32_inside_a_double_function_is_a_cast():
    def f(p, x):
        return x.astype(jnp.float32) * p.astype(jnp.float32)

    program = traced(f, np.ones(1), np.ones(1))
    assert program.noisy
    with jax.enable_x64(True):
        y = program.evaluate(np.ones(1), jnp.full(1, 1 + 1e-9, jnp.float64))
    assert float(y[0]) == 1.0


@pytest.mark.parametrize("oracle", sampled(["complete", "crown"]))
def test_a_double_network_is_decided_as_that(oracle):
    options = jc.CertifyOptions(oracle=oracle)
    box = jc.Box(np.zeros(1), np.ones(1))
    # y_0 = x in doubles; in float32 it is 0 everywhere.
    high = jc.Spec.rows(np.array([[-1.0, 0.0]]), np.array([0.5]))
    verdict = jc.verify(steep, STEEP, box, high, options=options)
    assert bool(verdict.refuted) and float(verdict.witness[0]) > 0.49
    upper = jc.Box(np.full(1, 0.6), np.ones(1))
    first = jc.Spec.classification(0, 2)
    assert bool(jc.verify(steep, STEEP, upper, first, options=options).proved)
    # With float32 weights the same function is another one, and so is the answer.
    single = jax.tree.map(np.float32, STEEP)
    assert bool(jc.verify(steep, single, upper, first, options=options).refuted)


@pytest.mark.campaign
@pytest.mark.parametrize("oracle", sampled(["crown", "complete"]))
def test_brackets_of_a_double_network_are_its_own(oracle):
    """In float32 y_0 is 0 everywhere: nothing of 0.9 is proved, too much of 0.2."""
    options = jc.CertifyOptions(oracle=oracle, batch_size=2)
    answer = jc.certify(steep, STEEP, np.array([[0.9], [0.2]]), options=options)
    np.testing.assert_array_equal(answer.predicted, [0, 1])
    crossing = 0.5 / (((1 + 1e-9) - 1) * 1e9)
    optimum = np.abs(np.array([0.9, 0.2]) - crossing)
    assert (answer.lower <= optimum + 1e-8).all()
    assert (answer.upper >= optimum - 1e-8).all()
    # Terms of 1e9 that cancel cost a slack of some 3e-4.
    assert (answer.upper - answer.lower <= 1e-3).all()
    assert (np.abs(answer.witness[:, 0] - crossing) <= 1e-3).all()


def test_weights_of_narrow_types_make_f_round():
    def f(p, x):
        return jnp.stack(
            [x.astype(p.dtype).astype(jnp.float32)[0], jnp.float32(0.5004)]
        )

    box = jc.Box(np.array([0.5007]), np.array([0.5009]))
    options = jc.CertifyOptions(oracle="crown")
    spec = jc.Spec.classification(0, 2)
    low = jc.verify(f, jnp.ones(1, jnp.bfloat16), box, spec, options=options)
    assert not bool(low.proved)
    assert bool(jc.verify(f, jnp.ones(1), box, spec, options=options).proved)


def test_transformations_round_where_weights_are_narrow():
    """ibp(f) and crown(f) of bfloat16 weights hold what f gives, not what it rounds."""

    def f(w, x):
        return x.astype(w.dtype) * w

    w = jnp.ones(64, jnp.bfloat16)
    x = np.random.default_rng(0).uniform(0.4, 1.0, 64).astype(np.float32)
    box = jc.Box(jnp.asarray(x), jnp.asarray(x))
    y = np.asarray(f(w, jnp.asarray(x)), np.float32)
    assert (y != x).any()
    for out in (jc.ibp(f)(w, box), jc.crown(f)(w, box).concretize(box)):
        assert (np.asarray(out.lo) <= y).all() and (y <= np.asarray(out.hi)).all()


@pytest.mark.parametrize("bounds", ["ibp", "crown", "oracle", "attack"])
def test_transformations_take_float64_for_what_it_is(bounds):
    """Where 64-bit types are enabled: in float32, the first output is 0 everywhere."""
    with jax.enable_x64(True):
        box = jc.Box(jnp.full(1, 0.9), jnp.ones(1))
        if bounds in ("ibp", "crown"):
            # Intervals see of a box that both terms move by 1e8.
            point = jc.Box(box.lo, box.lo)
            out, right = jax.jit(jc.ibp(steep))(STEEP, point), [0.9, 0.9]
            if bounds == "crown":
                out, right = jax.jit(jc.crown(steep))(STEEP, box), [0.9, 1.0]
                out = out.concretize(box)
            # Doubles around 1e9 are 1.2e-7 apart.
            assert [float(out.lo[0]), float(out.hi[0])] == pytest.approx(
                right, abs=1e-6
            )
            return
        below = jc.Spec.rows(np.array([[-1.0, 0.0]]), np.array([0.5]))  # y_0 < 0.5
        if bounds == "oracle":
            above = jc.Spec.rows(np.array([[1.0, 0.0]]), np.array([-0.5]))
            decide = jax.jit(BoundOracle(jc.crown(steep)))
            for spec, proved in ((below, False), (above, True)):
                verdict = decide(STEEP, box, spec, box.center)
                assert bool(verdict.proved) == proved
        else:
            verdict = jax.jit(jc.attack(steep))(STEEP, box, below)
            assert bool(verdict.refuted)
    # Handed over without them, float64 is float32 there, as JAX has it.
    single = jc.ibp(steep)(STEEP, jc.Box(jnp.full(1, 0.9), jnp.ones(1)))
    assert single.lo.dtype == jnp.float32
