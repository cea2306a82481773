"""Networks, checkpoints and ONNX export."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture
from jaxcert.learning.models import (
    build,
    checkpoint_metadata,
    export_onnx,
    from_params,
    load_checkpoint,
    load_network,
    save_checkpoint,
    to_network,
)

MLP = Architecture("mlp", (8, 8, 1), hidden=(12, 9))
ARCHITECTURES = {
    "mlp": MLP,
    "flat": Architecture("mlp", (64,), num_classes=3, hidden=(7,), batch_norm=True),
    "linear": Architecture("mlp", (5,), num_classes=2),
    "cnn": Architecture("cnn", (12, 12, 1), channels=(3, 4), strides=(2, 1)),
    "cnn_norm": Architecture(
        "cnn", (12, 11, 2), hidden=(6,), channels=(3,), batch_norm=True, pool="avg"
    ),
    "cnn_max": Architecture(
        "cnn", (12, 12, 1), channels=(3, 4), kernel=4, padding="SAME", pool="max"
    ),
}
every = pytest.mark.parametrize("name", ARCHITECTURES)


def fails(message: str):
    return pytest.raises(InputError, match=message)


def model_of(architecture: Architecture, seed: int = 0) -> nnx.Module:
    """A network whose running means are not those of initialisation."""
    model = build(architecture, nnx.Rngs(seed))
    x = np.random.default_rng(seed).random((16, *architecture.input_shape))
    nnx.jit(lambda model, x: model(x))(model, jnp.asarray(x, jnp.float32))
    return model


@functools.partial(jax.jit, static_argnums=0)
def _answers(apply, params, x):
    return jax.vmap(apply, (None, 0))(params, x)


def answers(network, x):
    """Returns the logits of a batch."""
    return _answers(network.apply, network.params, x)


@functools.cache
def network_of(architecture: Architecture, seed: int = 0):
    return to_network(model_of(architecture, seed), architecture, "net")


@every
def test_network_is_the_model_in_evaluation_mode(name):
    architecture = ARCHITECTURES[name]
    model = model_of(architecture)
    network = to_network(model, architecture, "net")
    x = jnp.asarray(np.random.default_rng(1).random((4, *architecture.input_shape)))
    got = answers(network, x)
    model.eval()
    expected = nnx.jit(lambda model, x: model(x))(model, x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert got.shape == (4, architecture.num_classes)
    assert network.input_shape == architecture.input_shape
    assert network.num_outputs == architecture.num_classes


@every
def test_network_in_float64_is_the_same_function(name):
    architecture = ARCHITECTURES[name]
    network = network_of(architecture)
    x = np.random.default_rng(2).random(architecture.input_shape)
    single = answers(network, jnp.asarray(x, jnp.float32)[None])[0]
    with jax.enable_x64():
        params = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), jnp.float64), network.params
        )
        double = jax.jit(network.apply)(params, jnp.asarray(x))
        assert double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)


def test_equal_architectures_compile_once():
    first, second = network_of(MLP, 0), network_of(dataclasses.replace(MLP), 1)
    assert first.apply == second.apply and hash(first.apply) == hash(second.apply)
    assert first.content_hash != second.content_hash
    traces = []

    def run(apply, params, x):
        traces.append(1)
        return apply(params, x)

    jitted = jax.jit(run, static_argnums=0)
    for network in (first, second):
        jitted(network.apply, network.params, jnp.zeros(MLP.input_shape))
    assert len(traces) == 1


@every
def test_architecture_survives_json(name):
    architecture = ARCHITECTURES[name]
    read = Architecture.from_dict(json.loads(architecture.to_json()))
    assert read == architecture and hash(read) == hash(architecture)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "rnn"}, "architecture: unknown kind 'rnn'; known: mlp, cnn"),
        ({"pool": "min"}, "architecture: unknown pool 'min'; known: none, max, avg"),
        ({"padding": "X"}, "architecture: unknown padding 'X'; known: VALID, SAME"),
        ({"hidden": (0,)}, "architecture: hidden must be integers of at least 1"),
        ({"hidden": ("a",)}, "architecture: hidden must be integers of at least 1"),
        ({"hidden": 4}, "architecture: hidden must be integers of at least 1"),
        ({"input_shape": ()}, "architecture: input_shape must not be empty"),
        ({"num_classes": 1}, "architecture: num_classes must be at least 2"),
        ({"num_classes": 2.5}, "kernel and num_classes must be integers"),
        ({"channels": (3,)}, "architecture: channels belong to a cnn, not to an mlp"),
        ({"kind": "cnn"}, r"a cnn needs channels and an input_shape \(h, w, c\)"),
        (
            {"kind": "cnn", "channels": (3,), "strides": (1, 2)},
            "architecture: 2 strides for 1 convolutions",
        ),
        (
            {"kind": "cnn", "channels": (3, 3), "kernel": 5, "strides": (2, 2)},
            r"architecture: block 2 leaves nothing of an image of \(8, 8\); use fewer",
        ),
    ],
)
def test_malformed_architectures(changes, message):
    with fails(message):
        dataclasses.replace(MLP, **changes)


def test_params_of_another_architecture():
    params = network_of(MLP).params
    narrow = dataclasses.replace(MLP, hidden=(12, 8))
    with fails(
        r"^n: array head/layers/1/bias has shape \(9,\), its architecture needs"
    ):
        from_params(params, narrow, "n")
    with fails("^n: no array head/layers/3/bias; no array head/layers/3/kernel for"):
        from_params(params, dataclasses.replace(MLP, hidden=(12, 9, 5)), "n")
    with fails("^n: an array head/layers/2/bias too many; .* for its architecture$"):
        from_params(params, dataclasses.replace(MLP, hidden=(12,)), "n")
    bad = jax.tree.map(lambda a: a.at[0].set(jnp.nan), params)
    with fails("^n: array head/layers/0/bias holds NaN or infinity, .* train it again"):
        from_params(bad, MLP, "n")


@every
def test_checkpoint_round_trip(name, tmp_path):
    network = network_of(ARCHITECTURES[name])
    path = tmp_path / "net.npz"
    save_checkpoint(path, network, {"epochs": 3})
    read = load_network(path)
    assert read.content_hash == network.content_hash
    assert read.apply == network.apply and read.name == "net"
    jax.tree.map(np.testing.assert_array_equal, read.params, network.params)
    assert checkpoint_metadata(path) == {"epochs": 3}
    assert os.listdir(tmp_path) == ["net.npz"]


def test_checkpoints_hold_no_pickle(tmp_path):
    save_checkpoint(tmp_path / "net.npz", network_of(MLP))
    with np.load(tmp_path / "net.npz", allow_pickle=False) as arrays:
        kinds = {arrays[key].dtype.kind for key in arrays.files}
    assert kinds == {"u", "f"}


def test_checkpoints_that_cannot_be_written(tmp_path):
    network = network_of(MLP)
    with fails(r"^a checkpoint's name ends in .npz, not 'net.pkl'$"):
        save_checkpoint(tmp_path / "net.pkl", network)
    with fails("^cannot write .*net.npz: No such file or directory$"):
        save_checkpoint(tmp_path / "absent" / "net.npz", network)
    with fails("^checkpoint metadata must be plain JSON: "):
        save_checkpoint(tmp_path / "net.npz", network, {"f": float("nan")})
    with fails("^checkpoint metadata must be plain JSON: "):
        save_checkpoint(tmp_path / "net.npz", network, {"f": object()})
    other = dataclasses.replace(network, apply=lambda params, x: x)
    with fails("^net: only networks built from a jaxcert Architecture can be written$"):
        save_checkpoint(tmp_path / "net.npz", other)
    with fails("^net: only networks built from a jaxcert Architecture can be written$"):
        export_onnx(tmp_path / "net.onnx", other)
    assert not os.listdir(tmp_path)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.npz"
    save_checkpoint(path, network_of(MLP), {"a": 1})
    return path


def edit(path: Path, changes=None, drop=(), **arrays) -> None:
    """Writes the checkpoint again, changed."""
    with np.load(path) as loaded:
        members = {key: loaded[key] for key in loaded.files if key not in drop}
    if changes is not None:
        changed = json.loads(members["header"].tobytes()) | changes
        members["header"] = np.frombuffer(json.dumps(changed).encode(), np.uint8)
    np.savez(path, **(members | arrays))


def test_damaged_checkpoints(saved, tmp_path):
    kernel = "head/layers/0/kernel"
    with np.load(saved) as loaded:
        weights = loaded[kernel]
    whole = saved.read_bytes()

    def check(message, *edits, **more):
        saved.write_bytes(whole)
        edit(saved, *edits, **more)
        with fails(message):
            load_checkpoint(saved)

    with fails("^no checkpoint .*absent.npz$"):
        load_checkpoint(tmp_path / "absent.npz")
    check("net.npz: no array head/layers/0/kernel for its", drop=(kernel,))
    check("the weights do not have the content hash", **{kernel: weights + 1e-3})
    check("the weights do not have the content hash", {"content_hash": "0" * 64})
    check(
        r"net: array head/layers/0/kernel has shape \(12, 64\), its architecture needs "
        r"\(64, 12\)$",
        **{kernel: weights.T},
    )
    check(
        "^.*\\.npz: net: array head/layers/0/kernel holds NaN or infinity",
        **{kernel: np.where(weights == weights[0, 0], np.float32("nan"), weights)},
    )
    check(
        "array head/layers/0/kernel is float64, not float32$",
        **{kernel: weights[:1].astype(np.float64)},
    )
    check(
        "array head/layers/0/kernel is larger than its architecture needs$",
        **{kernel: np.zeros((1000, 1000), np.float32)},
    )
    check("has checkpoint version 2; this jaxcert reads version 1$", {"version": 2})
    check("is not a jaxcert checkpoint: its header is another's$", {"format": "x"})
    check("net.npz: an architecture has the keys batch_norm, ", {"architecture": {}})
    check(
        "net.npz: architecture: unknown kind 'x'",
        {"architecture": dataclasses.asdict(MLP) | {"kind": "x"}},
    )
    check("is not a jaxcert checkpoint: no header$", drop=("header",))
    check(r"net.npz is damaged \(header: ", header=np.frombuffer(b"{", np.uint8))
    check("net.npz is damaged .*pickled objects", **{kernel: np.array([{}], object)})


def test_truncated_checkpoints(saved):
    whole = saved.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:kept])
        with fails("net.npz is damaged .* It is no jaxcert checkpoint, or was"):
            load_checkpoint(saved)
    middle = len(whole) // 2
    saved.write_bytes(whole[:middle] + b"\xff" * 8 + whole[middle + 8 :])
    with fails("net.npz is damaged .*Bad CRC-32"):
        load_checkpoint(saved)


@every
def test_exported_onnx_computes_the_same(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnx", reason="needs onnx")
    architecture = ARCHITECTURES[name]
    network = network_of(architecture)
    path = tmp_path / "net.onnx"
    export_onnx(path, network)
    generator = np.random.default_rng(3)
    x = generator.random((5, *architecture.input_shape), np.float32)
    (there,) = runtime.InferenceSession(path).run(None, {"input": x})
    here = answers(network, x)
    np.testing.assert_allclose(here, there, atol=1e-5)
    again = load_network(path)
    np.testing.assert_allclose(answers(again, x), there, atol=1e-5)


def test_unknown_network_files():
    with fails("^net.pt: a network file ends in .onnx, .onnx.gz or .npz$"):
        load_network("net.pt")


def test_importing_jaxcert_does_not_import_flax():
    code = "import jaxcert, sys; print('flax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
