"""verify on several networks, several tensors, and inputs beside outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import ran

from jaxcert.commands.verify import command as verify
from jaxcert.commands.verify.instances import named_files
from jaxcert.errors import InputError
from jaxcert.interop.vnnlib import load_vnnlib

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
FLOAT = onnx.TensorProto.FLOAT


def write(path: Path, seed: int, inputs: dict[str, int], outputs: int = 1) -> Path:
    """Writes a random ReLU network whose inputs meet in its hidden layer."""
    random = np.random.default_rng(seed)
    weights = {f"w{n}": random.normal(size=(size, 4)) for n, size in inputs.items()}
    weights |= {"bias": random.normal(size=(1, 4)), "u": random.normal(size=(4, 2))}
    nodes = [node("MatMul", [n, f"w{n}"], [f"p{n}"]) for n in inputs]
    total = f"p{next(iter(inputs))}"
    for name in list(inputs)[1:]:
        nodes.append(node("Add", [total, f"p{name}"], [f"s{name}"]))
        total = f"s{name}"
    nodes += [node("Add", [total, "bias"], ["h"]), node("Relu", ["h"], ["r"]),
              node("MatMul", ["r", "u"], ["y"])]  # fmt: skip
    if outputs == 2:
        nodes.append(node("Relu", ["p" + next(iter(inputs))], ["z"]))
    graph = onnx.helper.make_graph(
        nodes, "net",
        [info(n, FLOAT, ["batch", size]) for n, size in inputs.items()],
        [info(n, FLOAT, None) for n in ("y", "z")[:outputs]],
        [onnx.numpy_helper.from_array(w.astype(np.float32), n)
         for n, w in weights.items()],
    )  # fmt: skip
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def runtime(path: Path, *xs: np.ndarray) -> np.ndarray:
    """Returns the outputs of onnxruntime for many inputs, side by side."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    feed = {n: x.astype(np.float32) for n, x in zip(names, xs, strict=True)}
    return np.concatenate(session.run(None, feed), axis=1).astype(np.float64)


def bounds(*names: str) -> str:
    return "".join(f"(assert (<= {n} 1)) (assert (>= {n} -1))\n" for n in names)


def asked(capsys: Any, networks: str, prop: Path) -> tuple[str, list[str]]:
    """Returns the answer, and the lines below it."""
    ended = ran(verify, capsys, f"--onnx={networks}", f"--vnnlib={prop}",
                "--timeout=300")  # fmt: skip
    assert ended.code == 0, ended.err
    first, *rest = ended.out.splitlines()
    return first, rest


def numbers(lines: list[str]) -> np.ndarray:
    return np.array([float(v) for v in lines if re.fullmatch(r"[-+.\deinf]+", v)])


def decided(
    capsys: Any, folder: Path, networks: str, head: str, term: str, values: np.ndarray
) -> None:
    """Asks for values of a term just below and well above the greatest one found.

    Args:
      head: of the file, bounds included.
      term: `{}` of it is the number that a term must exceed.
      values: of the term, at many inputs, by onnxruntime.
    """
    prop, top = folder / "p.vnnlib", float(values.max())
    spread = float(np.ptp(values))
    for limit, expected in ((top - 0.02 * spread, "sat"), (top + spread, "unsat")):
        prop.write_text(head + f"(assert {term.format(f'{limit:.6f}')})\n")
        found, lines = asked(capsys, networks, prop)
        assert found == expected, (term, limit, top)
        if found == "sat":
            stated = load_vnnlib(prop)
            given = numbers(lines)
            assert len(given) == stated.num_inputs + stated.num_outputs
            tensors = [t for n in stated.networks for t in (*n.inputs, *n.outputs)]
            sides: dict[str, list[float]] = {"X": [], "Y": []}
            at = 0
            for tensor in tensors:
                sides[tensor.kind] += given[at : at + tensor.size].tolist()
                at += tensor.size
            assert stated.violates(sides["X"], sides["Y"])


ONE = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,2]) (declare-output Y float32 [1,2]))
"""
MANY = """(vnnlib-version <2.0>)
(declare-network f
  (declare-input A float32 [1,2]) (declare-input B float32 [1,1])
  (declare-output Y float32 [1,2]) (declare-output Z float32 [1,4]))
"""
PAIR = """(vnnlib-version <2.0>)
(declare-network f (declare-input X real [1,2]) (declare-output Y real [1,2]))
(declare-network g ({} f) (declare-input W real [1,2]) (declare-output V real [1,2]))
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_outputs_beside_inputs(tmp_path, capsys, seed):
    net = write(tmp_path / "n.onnx", seed, {"x": 2})
    x = np.random.default_rng(seed).uniform(-1, 1, size=(20_000, 2))
    values = runtime(net, x)[:, 0] - 2 * x[:, 1]
    term = "(>= (- Y[0,0] (* 2 X[0,1])) {})"
    head = ONE + bounds("X[0,0]", "X[0,1]")
    decided(capsys, tmp_path, str(net), head, term, values)


def test_inputs_that_are_no_box(tmp_path, capsys):
    net = write(tmp_path / "n.onnx", 2, {"x": 2})
    x = np.random.default_rng(2).uniform(-1, 1, size=(20_000, 2))
    x = x[x.sum(axis=1) <= -0.5]
    head = ONE + bounds("X[0,0]", "X[0,1]")
    head += "(assert (<= (+ X[0,0] X[0,1]) -0.5))\n"
    decided(capsys, tmp_path, str(net), head, "(>= Y[0,1] {})", runtime(net, x)[:, 1])


def test_several_inputs_and_outputs(tmp_path, capsys):
    net = write(tmp_path / "n.onnx", 3, {"a": 2, "b": 1}, outputs=2)
    x = np.random.default_rng(3).uniform(-1, 1, size=(20_000, 3))
    y = runtime(net, x[:, :2], x[:, 2:])
    head = MANY + bounds("A[0,0]", "A[0,1]", "B[0,0]")
    term = "(>= (+ Y[0,1] Z[0,2]) {})"
    decided(capsys, tmp_path, str(net), head, term, y[:, 1] + y[:, 4])


def test_two_networks_at_equal_inputs(tmp_path, capsys):
    first = write(tmp_path / "f.onnx", 4, {"x": 2})
    second = write(tmp_path / "g.onnx", 5, {"x": 2})
    x = np.random.default_rng(4).uniform(-1, 1, size=(20_000, 2))
    difference = (runtime(first, x) - runtime(second, x))[:, 0]
    head = PAIR.format("isomorphic-to") + bounds("X[0,0]", "X[0,1]")
    head += "".join(f"(assert (== W[0,{i}] X[0,{i}]))\n" for i in range(2))
    networks = f"f={first},g={second}"
    term = "(>= (- Y[0,0] V[0,0]) {})"
    decided(capsys, tmp_path, networks, head, term, difference)


@pytest.mark.campaign
def test_one_network_at_two_inputs(tmp_path, capsys):
    """How much the output grows at most where one input grows: monotonicity."""
    net = write(tmp_path / "f.onnx", 6, {"x": 2})
    random = np.random.default_rng(5)
    x = random.uniform(-1, 1, size=(40_000, 3))
    x = x[x[:, 2] >= x[:, 0]]
    growth = runtime(net, x[:, [2, 1]])[:, 0] - runtime(net, x[:, :2])[:, 0]
    head = PAIR.format("equal-to") + bounds("X[0,0]", "X[0,1]", "W[0,0]")
    head += "(assert (== W[0,1] X[0,1])) (assert (>= W[0,0] X[0,0]))\n"
    term = "(>= (- V[0,0] Y[0,0]) {})"
    decided(capsys, tmp_path, str(net), head, term, growth)


@pytest.mark.campaign
def test_a_network_equals_itself(tmp_path, capsys):
    net = write(tmp_path / "f.onnx", 7, {"x": 2})
    head = PAIR.format("equal-to") + bounds("X[0,0]", "X[0,1]")
    head += "".join(f"(assert (== W[0,{i}] X[0,{i}]))\n" for i in range(2))
    prop = tmp_path / "p.vnnlib"
    prop.write_text(head + "(assert (> (- Y[0,0] V[0,0]) 0.001))")
    assert asked(capsys, str(net), prop) == ("unsat", [])


@pytest.mark.campaign
def test_a_list_of_instances_may_name_networks(tmp_path, capsys):
    for name, seed in (("f", 4), ("g", 4)):
        write(tmp_path / f"{name}.onnx", seed, {"x": 2})
    head = PAIR.format("isomorphic-to") + bounds("X[0,0]", "X[0,1]")
    head += "".join(f"(assert (== W[0,{i}] X[0,{i}]))\n" for i in range(2))
    (tmp_path / "p.vnnlib").write_text(head + "(assert (>= (- Y[0,0] V[0,0]) 99))")
    csv = tmp_path / "instances.csv"
    csv.write_text("onnx,vnnlib,timeout_s,expected\n"
                   "\"[('f', 'f.onnx'), ('g', 'g.onnx')]\",p.vnnlib,300,unsat\n"
                   "\"f=f.onnx,g=g.onnx\",p.vnnlib,300,unsat\n"
                   "f.onnx,p.vnnlib,300,\n")  # fmt: skip
    out = tmp_path / "r.csv"
    ended = ran(verify, capsys, f"--instances={csv}", f"--output={out}")
    assert ended.code == 0, ended.err
    rows = out.read_text().splitlines()[1:]
    assert [row.rsplit(",", 2)[1] for row in rows] == ["unsat", "unsat", "error"]
    assert "the property needs files for f, g, and got" in ended.err
    again = ran(verify, capsys, f"--instances={csv}", f"--output={out}", "--resume",
                "--proofs")  # fmt: skip
    assert again.code == 0, again.err
    assert "proofs are of VNN-LIB 1.0" in again.err
    assert "2 answers: 0 with a checked proof" in again.out


def test_all_rows_of_a_fixed_batch_are_asked_about(tmp_path, capsys):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])]
    weight = np.array([[1.0], [-1.0]], np.float32)
    graph = onnx.helper.make_graph(
        nodes, "net", [info("x", FLOAT, [3, 2])], [info("y", FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    path = tmp_path / "n.onnx"
    path.write_bytes(model.SerializeToString())
    declared = "".join(f"(declare-const X_{i} Real)\n" for i in range(6))
    declared += "".join(f"(declare-const Y_{i} Real)\n" for i in range(3))
    prop = tmp_path / "p.vnnlib"
    box = bounds(*(f"X_{i}" for i in range(6)))
    for limit, expected in ((5.9, "sat"), (6.1, "unsat")):
        prop.write_text(f"{declared}{box}(assert (>= (+ Y_0 Y_1 Y_2) {limit}))")
        assert asked(capsys, str(path), prop)[0] == expected


def test_names_of_networks(tmp_path):
    assert named_files("net.onnx") == {"": Path("net.onnx")}
    assert named_files("f=a.onnx, g=b.onnx", tmp_path) == {
        "f": tmp_path / "a.onnx", "g": tmp_path / "b.onnx",
    }  # fmt: skip
    odd = tmp_path / "eps=0.1.onnx"
    odd.touch()
    assert named_files("eps=0.1.onnx", tmp_path) == {"": odd}
    for text in ("f=a,f=b", "f=,g=b", "[('f', 'a'), 3]", "[1", "f=a,b"):
        with pytest.raises(InputError, match="networks are named as NAME=FILE"):
            named_files(text)
