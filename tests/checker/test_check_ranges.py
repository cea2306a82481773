"""Trees of ranges: what they prove is derived, and nothing else is accepted."""

from __future__ import annotations

import re

import numpy as np
import pytest
from answer_builder import Answer, answer, trees, without_leaves
from builder import Layers, logits, random_layers, stored_network
from exact import exact_min_margin
from test_check_fuzz import random_ranges

from jaxcert.checker.arithmetic import Arithmetic
from jaxcert.checker.bounds import Bounds
from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import Status
from jaxcert.checker.network import network_of
from jaxcert.checker.ranges import RangeTrees

ONES = np.ones(2)
# Of both signs of both neurons, and of the first one alone.
FOUR, TWO = [2, 3, -1, -1, 3, -1, -1], [2, -1, -1]


def range_arrays(key: str, parts, columns=(), lines=None, betas=None):
    """Returns the arrays of trees (end, nodes) of one ReLU; betas are 0 by default."""
    nodes = np.concatenate([nodes for _, nodes in parts])
    leaves = int((nodes == -1).sum())
    depth = sum(depth_of_leaves(nodes) for _, nodes in parts)
    arrays = {
        "ends": np.array([end for end, _ in parts], np.int32),
        "sizes": np.array([len(nodes) for _, nodes in parts], np.int32),
        "nodes": nodes.astype(np.int32),
        "columns": np.array(columns, np.int32),
        "lines": np.zeros((leaves, len(columns)), np.uint8) if lines is None else lines,
        "betas": np.zeros(depth, np.float32) if betas is None else betas,
    }
    return {f"range_{name}_{key}": array for name, array in arrays.items()}


def depth_of_leaves(nodes) -> int:
    """Returns how many signs all leaves of a tree have together."""
    total, todo = 0, [0]
    for node in nodes:
        depth = todo.pop()
        total += depth * (node == -1)
        todo += [depth + 1, depth + 1] if node >= 0 else []
    return total


def one(parts=((1, FOUR),), box: int = 0, offset: float = 0.0, **given) -> Answer:
    """1/4 - relu(relu(x1 + x2) + relu(x1 - x2) - 5/2) is > 0 on [-1, 1]^2.

    The sum of both is at most 2, but single neurons alone allow it to be 3. The third
    layer's input is wrong by as much, and has two neurons more that count for nothing.
    """
    layers: Layers = [
        (np.float32([[1, 1], [1, -1]]), np.zeros(2, np.float32)),
        (np.float32([[1, 1]]), np.float32([-2.5])),
        (np.float32([[-1]]), np.float32([0.25])),
    ]
    arrays = trees([(0, 0, [-1])]) | without_leaves(3, 1)
    arrays |= {
        "leaf_weights": np.ones((1, 1), np.float32),
        "leaf_slopes": np.zeros((1, 3), np.float32),
        "leaf_betas": np.zeros((1, 3), np.float32),
    }
    made = answer(
        layers, [(-ONES, ONES)], [(0, np.ones((1, 1)), np.array([offset]))], arrays
    )
    if parts:
        made.certificate.arrays |= range_arrays(f"{box}_1", parts, **given)
    return newest(made)


def newest(made: Answer) -> Answer:
    stated = ("box_lo", "box_hi", "clause_box", "row_clause", "row_coefficients")
    return made.changed(
        lambda s: s.head.update(version=11),
        lambda s: [s.arrays.pop(name) for name in (*stated, "row_offset")],
    )


def report_of(made: Answer, folder, exact: bool = False):
    return check_certificate(made.write(folder), exact=exact)


@pytest.mark.parametrize("exact", [False, True])
def test_trees_prove_what_single_neurons_cannot(tmp_path, exact):
    report = report_of(one(), tmp_path, exact)
    assert report.accepted, report.reason
    report = report_of(one(offset=1e-12 - 0.25), tmp_path, exact)
    assert report.accepted, report.reason
    for parts in ((), ((0, FOUR),), ((1, [-1]),), ((1, TWO),)):
        report = report_of(one(parts), tmp_path, exact)
        assert report.status is Status.REJECTED and "is not > 0" in report.reason


@pytest.mark.parametrize("exact", [False, True])
def test_a_false_statement_is_rejected_whatever_the_trees_are(tmp_path, exact):
    """It is exactly 0 at most points."""
    random = np.random.default_rng(0)
    for _ in range(4 if exact else 40):
        betas = np.float32(random.exponential(size=8) * 10.0 ** random.integers(-8, 9))
        lines = random.integers(0, 129, (4, 2), np.uint8)
        given = {"columns": (0, 1), "lines": lines, "betas": betas}
        report = report_of(one(offset=-0.25, **given), tmp_path, exact)
        assert report.status is Status.REJECTED and "is not > 0" in report.reason


ARRAYS = range_arrays("0_1", [(1, FOUR)], (0, 1))
FEW = np.float32([1] * 7)
MUTATIONS = {
    # Of what is derived: it proves less.
    "other_end": (r"is not > 0", {"ends": np.int32([0])}),
    "huge_multiplier": (r"is not > 0", {"betas": np.full(8, 1e38, "f4")}),
    "no_split": (
        r"is not > 0",
        {
            "nodes": np.int32([-1]), "sizes": np.int32([1]), "betas": FEW[:0],
            "lines": np.zeros((1, 2), np.uint8),
        },
    ),
    # Of the cover.
    "missing_leaf": (
        r"a tree is cut off: a part of the box is left out",
        {
            "nodes": np.int32(FOUR[:-1]), "sizes": np.int32([6]), "betas": FEW[:6],
            "lines": np.zeros((3, 2), np.uint8),
        },
    ),
    "leaf_of_another_tree": (
        r"a tree is cut off",
        {"ends": np.int32([1, 1]), "sizes": np.int32([6, 1])},
    ),
    "spare_node": (
        r"nodes that belong to no part",
        {
            "nodes": np.int32([*FOUR, -1]), "sizes": np.int32([8]),
            "lines": np.zeros((5, 2), np.uint8),
        },
    ),
    "nothing": (
        r"a tree is cut off",
        {
            "ends": np.int32([]), "sizes": np.int32([]), "nodes": np.int32([]),
            "betas": FEW[:0], "lines": np.zeros((0, 2), np.uint8),
        },
    ),
    "neuron_twice": (r"splits a neuron twice", {"nodes": np.int32(
        [2, 2, -1, -1, 3, -1, -1])}),
    "neuron_of_the_layer": (r"splits what does not exist", {"nodes": np.int32(
        [2, 3, -1, -1, 4, -1, -1])}),
    "halved": (r"splits more than signs at \[0\]", {"nodes": np.int32(
        [0, 3, -1, -1, 3, -1, -1])}),
    "lemma": (r"splits more than signs", {"nodes": np.int32(
        [2, 3, -1, -1, 3, -1, -2]), "lines": np.zeros((3, 2), np.uint8)}),
    # Of the form.
    "no_end": (r"range_ends_0_1 is no end", {"ends": np.int32([2])}),
    "end_below_0": (r"range_ends_0_1 is no end", {"ends": np.int32([-1])}),
    "empty_tree": (
        r"without nodes",
        {"ends": np.int32([1, 1]), "sizes": np.int32([7, 0])},
    ),
    "other_sizes": (r"not those of the trees", {"sizes": np.int32([6])}),
    "more_trees": (r"'range_sizes_0_1' has shape", {"ends": np.int32([1, 1])}),
    "no_column": (r"names no neuron before", {"columns": np.int32([0, 2])}),
    "column_below_0": (r"names no neuron before", {"columns": np.int32([-1, 1])}),
    "columns": (r"'range_lines_0_1' has shape", {"columns": np.int32([0])}),
    "line": (r"range_lines_0_1 is above 128", {"lines": np.full((4, 2), 129, "u1")}),
    "leaves": (r"'range_lines_0_1' has shape", {"lines": np.zeros((3, 2), "u1")}),
    "negative": (r"range_betas_0_1 is negative", {"betas": -np.ones(8, "f4")}),
    "nan": (r"has a NaN", {"betas": np.full(8, np.nan, "f4")}),
    "few_multipliers": (r"range_betas_0_1 is too short", {"betas": FEW}),
    "more_multipliers": (r"range_betas_0_1 is too long", {"betas": np.ones(9, "f4")}),
    "flat": (r"'range_nodes_0_1' has shape", {"nodes": np.int32([FOUR])}),
    "type": (r"'range_betas_0_1' has type", {"betas": np.ones(8)}),
    # What no file may say: ends are derived.
    "bound": (r"\['range_least_0_1'\] do not belong", {"least": np.float64([-0.5])}),
}  # fmt: skip


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_mutation_is_rejected_with_its_cause(tmp_path, kind):
    reason, arrays = MUTATIONS[kind]
    changes = {f"range_{name}_0_1": array for name, array in arrays.items()}
    made = one().changed(lambda s: s.arrays.update(ARRAYS | changes))
    report = report_of(made, tmp_path)
    assert report.status is Status.REJECTED
    assert re.search(reason, report.reason), report.reason


@pytest.mark.parametrize("name", ARRAYS)
def test_no_array_may_be_missing(tmp_path, name):
    report = report_of(one().changed(lambda s: s.arrays.pop(name)), tmp_path)
    assert report.status is Status.REJECTED
    assert re.search("there is no array|do not belong", report.reason)


@pytest.mark.parametrize("key", ["0_0", "0_2", "1_1"])
def test_trees_of_another_layer_or_box_are_rejected(tmp_path, key):
    made = one(()).changed(lambda s: s.arrays.update(range_arrays(key, [(1, FOUR)])))
    report = report_of(made, tmp_path)
    assert report.status is Status.REJECTED
    assert "do not belong to the format" in report.reason


def test_older_versions_have_none(tmp_path):
    report = report_of(one().changed(lambda s: s.head.update(version=10)), tmp_path)
    assert report.status is Status.REJECTED
    assert "do not belong to the format" in report.reason


def test_a_nan_says_nothing(tmp_path, monkeypatch):
    """As if there were no tree, whichever leaf it is of."""
    true = Bounds.lower_bounds
    for leaf in range(4):

        def spoiled(self, value, a, *given, leaf=leaf):
            found, inputs = true(self, value, a, *given)
            if len(a) == 4:  # the leaves of the tree
                found[leaf] = np.nan
            return found, inputs

        monkeypatch.setattr(Bounds, "lower_bounds", spoiled)
        assert "is not > 0" in report_of(one(), tmp_path).reason
    monkeypatch.undo()
    assert report_of(one(), tmp_path).accepted


def bounds_of(layers, lo, hi, arrays, folder, exact=False) -> Bounds:
    """Returns the bounds of a box with the trees of the arrays."""
    stored_network(layers).write(folder / "n.npz")
    net = network_of((folder / "n.npz").read_bytes(), exact)
    made = {
        node.relu: RangeTrees(arrays, net, node, f"0_{node.relu}")
        for node in net.relus
        if f"range_ends_0_{node.relu}" in arrays
    }
    return Bounds(Arithmetic(exact), net, lo, hi, {}, None, made)


@pytest.mark.parametrize("exact", [False, True])
def test_a_leaf_without_a_point_is_left_out(tmp_path, exact):
    """On [0, 1] x + 1 has one sign: the leaf of the other one is empty.

    The least value of 2 max(x - 1/2, 0) - x - 1 is -3/2; the line of slope 0 gives -2,
    and both signs of x - 1/2, with multipliers of 1, give -3/2.
    """
    layers: Layers = [
        (np.float32([[1], [1]]), np.float32([1, -0.5])),
        (np.float32([[-1, 2]]), np.float32([0])),
        (np.float32([[1]]), np.float32([0])),
    ]
    ends, least = (np.zeros(1), np.ones(1)), {}
    for name, nodes, betas in (
        ("none", [-1], []),
        ("one", [2, -1, -1], [1, 1]),
        ("two", [1, 2, -1, -1, -1], [0, 1, 0, 1, 30]),
    ):
        arrays = range_arrays("0_1", [(0, nodes)], (1,), betas=np.float32(betas))
        root = bounds_of(layers, *ends, arrays, tmp_path, exact).root
        least[name] = float(root.lo[3][0, 0])
    assert least["none"] < -1.9
    assert least["one"] == least["two"] == pytest.approx(-1.5)
    assert least["one"] <= -1.5


def test_later_trees_rest_on_earlier_ones(tmp_path):
    """Three layers: the tree of the last is of use behind that of the second alone."""
    layers: Layers = [
        (np.float32([[1, 1], [1, -1]]), np.zeros(2, np.float32)),
        (np.float32([[1, 1]]), np.float32([-2.5])),
        (np.float32([[1]]), np.float32([-0.25])),
        (np.float32([[1]]), np.float32([0])),
    ]
    second = range_arrays("0_1", [(1, FOUR)])
    third = range_arrays("0_2", [(1, [-1])])
    highest = [
        bounds_of(layers, -ONES, ONES, arrays, tmp_path).root.hi[5][0, 0]
        for arrays in ({}, third, second, second | third)
    ]
    assert highest[0] > 0.2 and highest[1] > 0.2
    assert highest[2] == highest[3] == pytest.approx(-0.25)


@pytest.mark.parametrize("exact", [False, True])
def test_no_range_excludes_the_least_value_of_a_neuron(tmp_path, exact):
    """Random trees, lines and multipliers, against the exact minimum of each neuron."""
    tight = 0
    for seed in range(4 if exact else 12):
        random = np.random.default_rng(seed)
        sizes = [(2, 4, 3, 2), (3, 3, 3, 3, 2)][seed % 2]
        layers = random_layers(random, sizes)
        centre, radius = random.normal(size=sizes[0]), random.choice([0.1, 0.5, 1.0])
        lo, hi = centre - radius, centre + radius
        plain = bounds_of(layers, lo, hi, {}, tmp_path, exact).root
        arrays: dict[str, np.ndarray] = {}
        for k in range(1, len(sizes) - 2):
            arrays |= random_ranges(random, k, sizes, likely=1.0)
        root = bounds_of(layers, lo, hi, arrays, tmp_path, exact).root
        for k in range(1, len(sizes) - 2):
            short = [(w.T, b) for w, b in layers[: k + 1]]
            for end in arrays[f"range_ends_0_{k}"].tolist():
                i, side = end % sizes[k + 1], 1.0 if end < sizes[k + 1] else -1.0
                row = side * np.eye(sizes[k + 1])[i]
                least = exact_min_margin(short, lo, hi, row, 0.0).value
                v = 2 * k + 1
                mine, before = (
                    float(at.lo[v][0, i] if side > 0 else -at.hi[v][0, i])
                    for at in (root, plain)
                )
                assert before <= mine <= least + 1e-6
                tight += least - mine < 0.1 * (least - before)
        x = random.uniform(lo, hi, (2000, len(lo)))
        for k in range(1, len(sizes) - 2):
            z = logits(layers[: k + 1], x)
            v = 2 * k + 1
            assert np.all(z >= root.lo[v][0].astype(float) - 1e-12)
            assert np.all(z <= root.hi[v][0].astype(float) + 1e-12)
    assert tight > 2, "no range is near what it bounds"
