"""Pictures that explain relaxations: one ReLU, a pair, a small network, time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.spatial
from scipy.optimize import linprog

from jaxcert.bounds import hull
from studies.milp_reference.network import Mlp
from studies.relaxations.questions import Question, facets, least

COLOURS = {
    "box": "#999999",
    "zonotope": "#e69f00",
    "crown": "#cc79a7",
    "triangle": "#0072b2",
    "krelu": "#009e73",
    "exact": "#000000",
}
NAMES = {
    "box": "box",
    "zonotope": "zonotope (DeepZ)",
    "crown": "CROWN / DeepPoly",
    "triangle": "triangle LP",
    "krelu": "k-ReLU LP, k = 2",
    "exact": "exact (MILP)",
}
_LOW, _HIGH = -1.0, 1.5
# Inputs of the pair as functions of two independent ones in [-1, 1].
_MIX = np.array([[1.0, 0.6], [0.8, -0.9]])
_DIRECTIONS = 64


def _plot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _outline(axis: Any, corners: np.ndarray, name: str, label: str, fill: float = 0.1):
    closed = np.concatenate([corners, corners[:1]])
    style = "--" if name == "box" else "-"
    axis.fill(*corners.T, color=COLOURS[name], alpha=fill, linewidth=0)
    axis.plot(*closed.T, style, color=COLOURS[name], linewidth=1.6, label=label)


def draw_single(path: Path) -> None:
    """Draws the relaxations of one ReLU over [-1, 1.5]."""
    figure, axis = _plot().subplots(figsize=(5.6, 3.6), dpi=110, layout="constrained")
    low, high = _LOW, _HIGH
    slope = high / (high - low)
    box = np.array([[low, 0], [high, 0], [high, high], [low, high]])
    _outline(axis, box, "box", "box", 0.05)
    shift = -slope * low
    lines = np.array(
        [[low, slope * low], [high, slope * high],
         [high, slope * high + shift], [low, slope * low + shift]]
    )  # fmt: skip
    _outline(axis, lines, "zonotope", "zonotope (DeepZ)", 0.08)
    lower = np.array([[low, low], [high, high], [low, 0]])
    _outline(axis, lower, "crown", "two lines (CROWN / DeepPoly)", 0.08)
    _outline(axis, np.array([[low, 0], [0, 0], [high, high]]), "triangle", "triangle")
    axis.plot([low, 0, high], [0, 0, high], color="black", linewidth=3, label="relu(x)")
    axis.set(xlabel="input x of the neuron, l = -1, u = 1.5", ylabel="output")
    axis.set_title("One ReLU", fontsize=11)
    axis.legend(loc="lower right", fontsize=8)
    axis.grid(alpha=0.25)
    _save(figure, path)


def draw_pair(path: Path) -> None:
    """Draws two ReLUs of dependent inputs: on the left their inputs, on the right sums.

    In the plane of x1 + x2 and y1 + y2 what single neurons allow and the joint hull
    does not is visible.
    """
    figure, (left, right) = _plot().subplots(
        1, 2, figsize=(9.6, 4.2), dpi=110, layout="constrained"
    )
    z = np.random.default_rng(0).uniform(-1, 1, (6000, 2))
    x = z @ _MIX.T
    directions = hull.octahedron(2)
    bounds = np.abs(directions @ _MIX).sum(axis=1)
    corners = _intersection(directions, bounds, np.zeros(2))
    ends = np.abs(_MIX).sum(axis=1)
    square = np.array(list(itertools.product((-1, 1), repeat=2)))[[0, 1, 3, 2]] * ends
    left.scatter(*x.T, s=2, color="black", alpha=0.25, label="reachable inputs")
    _outline(left, square, "box", "their box", 0.05)
    _outline(left, corners, "krelu", "octagon: bounds of x1, x2, x1 + x2, x1 - x2")
    left.set(xlabel="x1", ylabel="x2")
    left.set_title("Inputs of two neurons", fontsize=11)
    left.set_ylim(top=2.7)
    left.legend(loc="upper left", fontsize=8)
    for name in ("box", "zonotope", "triangle", "krelu"):
        _outline(right, _pair_set(name, bounds), name, NAMES[name].replace(" LP", ""))
    y = np.maximum(x, 0)
    right.scatter(
        x.sum(axis=1), y.sum(axis=1), s=2, color="black", alpha=0.25, label="reachable"
    )
    right.set(xlabel="x1 + x2", ylabel="relu(x1) + relu(x2)")
    right.set_title("What relaxations allow", fontsize=11)
    right.legend(loc="lower right", fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.25)
    _save(figure, path)


def _pair_set(name: str, bounds: np.ndarray) -> np.ndarray:
    """Returns the corners of a relaxation in the plane (x1 + x2, y1 + y2).

    All of them know the octagon but box and zonotope, which know the range of each.
    """
    ends = np.abs(_MIX).sum(axis=1)
    if name == "krelu":
        p, q, limit = facets(bounds, 2)
    else:
        slope, eye, zero = np.full(2, 0.5), np.eye(2), np.zeros((2, 2))
        reach = {"box": zero, "zonotope": np.diag(slope), "triangle": np.diag(slope)}
        top = {"box": ends, "zonotope": slope * ends, "triangle": slope * ends}
        p, q, limit = -reach[name], eye, top[name]
        below = {
            "box": [(zero, -eye, np.zeros(2))],
            "zonotope": [(np.diag(slope), -eye, np.zeros(2))],
            "triangle": [(zero, -eye, np.zeros(2)), (eye, -eye, np.zeros(2))],
        }[name]
        for part in below:
            p, q, limit = (
                np.concatenate([old, new])
                for old, new in zip((p, q, limit), part, strict=True)
            )
        known = hull.octahedron(2) if name == "triangle" else np.vstack([eye, -eye])
        most = bounds if name == "triangle" else np.concatenate([ends, ends])
        p = np.concatenate([p, known])
        q, limit = np.concatenate([q, 0 * known]), np.concatenate([limit, most])
    rows, support = [], []
    for angle in np.linspace(0, 2 * np.pi, _DIRECTIONS, endpoint=False):
        d = np.array([np.cos(angle), np.sin(angle)])
        cost = -np.repeat(d, 2)
        found = linprog(cost, np.hstack([p, q]), limit, bounds=(None, None))
        rows.append(d)
        support.append(-found.fun)
    inside = np.array([0.0, 0.5 * ends.sum() / 2])
    return _intersection(np.array(rows), np.array(support), inside)


def _intersection(
    rows: np.ndarray, limit: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Returns the corners of {z: rows z <= limit} in order; `inside` lies in it."""
    halves = np.hstack([rows, -limit[:, None] - 1e-9])
    corners = scipy.spatial.HalfspaceIntersection(halves, inside).intersections
    return corners[scipy.spatial.ConvexHull(corners).vertices]


def small_network() -> tuple[Mlp, np.ndarray, np.ndarray]:
    """Returns a random network of 2 hidden layers, and the box of its 2 inputs."""
    rng = np.random.default_rng(11)
    layers = [
        (rng.normal(size=(n, m)) * 1.2 / np.sqrt(m), rng.normal(size=n) * 0.3)
        for m, n in ((2, 8), (8, 8), (8, 2))
    ]
    return Mlp(tuple(layers)), np.full(2, -1.0), np.full(2, 1.0)


def draw_outputs(path: Path) -> None:
    """Draws what every method knows of the outputs of a small network."""
    network, lo, hi = small_network()
    x = np.random.default_rng(0).uniform(lo, hi, (20000, 2))
    for depth, (weight, bias) in enumerate(network.layers):
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if depth < len(network.layers) - 1 else x
    figure, axis = _plot().subplots(figsize=(7.6, 4.6), dpi=110, layout="constrained")
    for name in COLOURS:
        count = 4 if name == "box" else _DIRECTIONS // 2
        angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
        rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        question = Question(network, lo, hi, -rows, np.zeros(count))
        corners = _intersection(rows, -least(name, question), x.mean(axis=0))
        _outline(axis, corners, name, NAMES[name], 0.06)
    axis.scatter(*x.T, s=1, color="black", alpha=0.15, label="sampled outputs")
    axis.set(xlabel="output 1", ylabel="output 2")
    axis.set_title(
        "Outputs of a 2-8-8-2 ReLU network over [-1, 1] x [-1, 1]", fontsize=11
    )
    figure.legend(loc="outside right upper", fontsize=8)
    axis.grid(alpha=0.25)
    _save(figure, path)


def draw_time(path: Path, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the mean bound of the margin over the seconds per image.

    Args:
      path: of the PNG.
      title: what was measured.
      rows: with the keys method, images, verified, bound and seconds: the last two are
        means over the same images.
    """
    figure, axis = _plot().subplots(figsize=(7.2, 4.0), dpi=110, layout="constrained")
    shapes = "osD^vP*X"
    for row, shape in zip(rows, itertools.cycle(shapes)):
        axis.plot(row["seconds"], row["bound"], shape, markersize=9)
        axis.annotate(
            f"{row['method']}\n{row['verified']} of {row['images']} verified",
            (row["seconds"], row["bound"]), (0, -9), textcoords="offset points",
            ha="center", va="top", fontsize=8,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.margins(x=0.22, y=0.24)
    axis.set(
        xlabel="seconds per image", ylabel="proved lower bound of the margin (mean)"
    )
    axis.set_title(f"{title}: higher is tighter, left is faster", fontsize=10)
    axis.grid(alpha=0.25)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path)
    _plot().close(figure)


DRAWINGS = {
    "single.png": draw_single,
    "pair.png": draw_pair,
    "outputs.png": draw_outputs,
}
"""The pictures that need no network, by name of the file."""
