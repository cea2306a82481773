"""The exact references of the tests against each other and against closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cases import sampled
from exact import brute_force_min_margin, evaluate, exact_min_margin
from in_process import ran
from studies.milp_reference import command

SIZES = [(1, 1, 2), (2, 3, 2), (3, 8, 3), (2, 4, 4, 2), (4, 3, 3, 2, 3), (5, 6, 2, 4)]


def random_network(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    sizes = SIZES[seed % len(SIZES)]
    return [
        (rng.normal(size=(n, m)), rng.normal(size=m) / 2)
        for n, m in zip(sizes[:-1], sizes[1:], strict=True)
    ]


@pytest.mark.parametrize("seed", sampled(range(30), 3))
def test_milp_and_brute_force_agree(seed):
    weights = random_network(seed)
    rng = np.random.default_rng(1000 + seed)
    center = rng.normal(size=len(weights[0][0]))
    radius = rng.choice([0.05, 0.5, 2.0])
    lo, hi = center - radius, center + radius * rng.random(len(center))
    c, d = rng.normal(size=len(weights[-1][1])), rng.normal()
    milp = exact_min_margin(weights, lo, hi, c, d)
    brute = brute_force_min_margin(weights, lo, hi, c, d)
    size = 1 + abs(brute.value)
    assert abs(milp.value - brute.value) < 1e-5 * size
    for value, point in (milp, brute):
        assert np.all((lo <= point) & (point <= hi))
        assert abs(c @ evaluate(weights, point) + d - value) < 1e-5 * size
    samples = lo + rng.random((2000, len(lo))) * (hi - lo)
    least = (evaluate(weights, samples) @ c + d).min()
    assert milp.value <= least + 1e-6 * size


def test_closed_forms():
    lo, hi = np.array([-1.0, -2.0]), np.array([3.0, 0.5])
    affine = [(np.array([[2.0], [-1.0]]), np.array([0.25]))]
    hat = [  # |x_0| + |x_1| as relu(x) + relu(-x)
        (np.array([[1.0, -1, 0, 0], [0, 0, 1, -1]]), np.zeros(4)),
        (np.ones((4, 1)), np.zeros(1)),
    ]
    for method in (exact_min_margin, brute_force_min_margin):
        assert method(affine, lo, hi, np.ones(1), 1.0).value == pytest.approx(-1.25)
        assert method(hat, lo, hi, -np.ones(1), 0.0).value == pytest.approx(-5)
        assert method(hat, lo, hi, np.ones(1), 0.5).value == pytest.approx(0.5)
        assert method(hat, lo + 4, hi + 4, np.ones(1), 0.0).value == pytest.approx(5)


def test_brute_force_refuses_what_it_cannot_enumerate():
    wide = [(np.ones((1, 9)), np.ones(9)), (np.ones((9, 1)), np.ones(1))]
    with pytest.raises(ValueError, match="9 neurons are too many for brute force"):
        brute_force_min_margin(wide, np.zeros(1), np.ones(1), np.ones(1), 0.0)


# ------------------------------------------------- experiments/milp_reference.py


def least_margin(weights, lo, hi, label):
    """Returns the least margin of a label over all targets."""
    eye = np.eye(len(weights[-1][1]))
    targets = [j for j in range(len(eye)) if j != label]
    return min(
        (exact_min_margin(weights, lo, hi, eye[label] - eye[j], 0.0) for j in targets),
        key=lambda found: found.value,
    )


def write_run(folder: Path, weights, inputs: np.ndarray, wrong: int | None) -> None:
    """Writes an exact run; the box of the input `wrong` is 1 % too large."""
    records, arrays = [], {"x": [], "lo": [], "hi": [], "witness": []}
    for row, x in enumerate(inputs):
        label = int(evaluate(weights, x).argmax())
        lower, upper, witness = 0.0, 1.0, np.full(len(x), np.nan)
        while upper - lower > 1e-4:
            radius = (lower + upper) / 2
            lo, hi = np.maximum(x - radius, 0), np.minimum(x + radius, 1)
            found = least_margin(weights, lo, hi, label)
            if found.value > 1e-5:
                lower = radius
            else:
                upper, witness = radius, found.point
        assert np.all(np.isfinite(witness))
        # The witness of a MILP may miss by its tolerance: go on along the ray.
        for step in np.linspace(1, 1.2, 200):
            point = np.clip(x + step * (witness - x), 0, 1)
            values = evaluate(weights, point)
            if values.argmax() != label:
                witness = point
                break
        upper = float(np.abs(witness - x).max())
        lower *= 1.01 if row == wrong else 1
        records.append(
            {
                "input": f"i{row}",
                "predicted": label,
                "status": "certified",
                "objective": "apothem",
                "apothem_lower": lower,
                "apothem_upper": upper,
                "required_margin": 0.0,
            }
        )
        lo, hi = np.maximum(x - lower, 0), np.minimum(x + lower, 1)
        for key, value in (("x", x), ("lo", lo), ("hi", hi), ("witness", witness)):
            arrays[key].append(value)
    folder.mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "certificates.jsonl").write_text(lines)
    config = {"config": {"domain_lower": 0.0, "domain_upper": 1.0}}
    (folder / "run.json").write_text(json.dumps(config))
    names = np.array([record["input"] for record in records])
    np.savez(folder / "boxes.npz", input=names, **arrays)


def write_onnx(path: Path, weights, mean: float) -> None:
    """Writes Sub, Flatten, MatMul, Add, Relu, Gemm for weights of two layers.

    The mean is added to the bias again, so that the network stays the same.
    """
    onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")
    (w1, b1), (w2, b2) = weights
    arrays = {
        "mean": np.full((1, 1, 1, len(w1)), mean),
        "w1": w1,
        "b1": b1 + mean * w1.sum(axis=0),
        "w2": w2.T,
        "b2": b2,
    }
    node = onnx.helper.make_node
    nodes = [
        node("Sub", ["x", "mean"], ["centred"]),
        node("Flatten", ["centred"], ["flat"]),
        node("MatMul", ["flat", "w1"], ["product"]),
        node("Add", ["b1", "product"], ["z"]),
        node("Relu", ["z"], ["a"]),
        node("Gemm", ["a", "w2", "b2"], ["y"], transB=1),
    ]
    kind = onnx.TensorProto.DOUBLE
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", 1, 1, len(w1)])],
        [onnx.helper.make_tensor_value_info("y", kind, ["n", len(b2)])],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    onnx.save(onnx.helper.make_model(graph), path)


@pytest.mark.campaign
@pytest.mark.parametrize("wrong", [None, 1])
def test_the_script_confirms_true_runs_and_contradicts_false_ones(
    tmp_path, wrong, capsys
):
    weights = random_network(2)
    write_onnx(tmp_path / "net.onnx", weights, mean=0.5)
    inputs = np.random.default_rng(5).random((40, 3))
    near = [x for x in inputs if has_other_class(weights, x)][:3]
    write_run(tmp_path / "run", weights, np.array(near), wrong)
    done = ran(
        command,
        capsys,
        model=tmp_path / "net.onnx",
        run=tmp_path / "run",
        output=tmp_path / "results.jsonl",
    )
    lines = done.out.splitlines()
    results = [json.loads(s) for s in (tmp_path / "results.jsonl").open()]
    if wrong is None:
        assert done.code == 0, done.out + done.err
        assert "lower ends 3 confirmed, 0 contradicted, 0 unknown" in lines[-1]
        assert "witnesses 3 confirmed, 0 contradicted, 0 unknown" in lines[-1]
        return
    assert done.code == 1
    assert "lower ends 2 confirmed, 1 contradicted, 0 unknown" in lines[-1]
    assert lines[0].startswith('CONTRADICTION {"input": "i1", "lower": "contradicted"')
    assert json.loads(lines[0].removeprefix("CONTRADICTION ")) == results[1]
    lo, hi, point = (np.array(results[1][key]) for key in ("lo", "hi", "point"))
    assert np.all((lo <= point) & (point <= hi))
    label = evaluate(weights, near[1]).argmax()
    values = evaluate(weights, point)
    assert np.delete(values, label).max() >= values[label]


def has_other_class(weights, x: np.ndarray) -> bool:
    label = int(evaluate(weights, x).argmax())
    return least_margin(weights, np.zeros(len(x)), np.ones(len(x)), label).value < -0.1
