"""Complete verdicts against exact answers, and against points where there are none.

A piecewise linear network of two inputs is affine on the convex polygons into which the
lines of its kinks cut the box. They are computed here in fractions, layer by layer, for
any depth: the least margin is that of a vertex, and nothing is rounded.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxcert as jc
from jaxcert.branch.inputs import InputSplitOptions
from jaxcert.branch.signs import BranchOptions
from jaxcert.certification import CertifyOptions
from jaxcert.model import Model
from jaxcert.oracle.decide import Effort, decide
from jaxcert.spec import Spec
from jaxcert.verdict import Status
from jaxcert.witness.attack import AttackOptions
from studies.soundness_campaign.bounds import BOXES_PER_NETWORK, Problems, least_values
from studies.soundness_campaign.layers import LAYERS
from studies.soundness_campaign.networks import Architecture, Params
from studies.soundness_campaign.numbers import FRACTIONS, LONG
from studies.soundness_campaign.onnx import to_onnx
from studies.soundness_campaign.record import Suspicion, Tally, exact_margin, pick

# Where a convex kink lies, and (slope, intercept) left and right of each.
_HALF, _LOW, _HIGH = Fraction(1, 2), Fraction(-1, 2), Fraction(3, 4)
_KINKS: dict[str, tuple[list[Fraction], list[tuple[Any, Any]]]] = {
    "relu": ([Fraction(0)], [(0, 0), (1, 0)]),
    "leaky_relu": ([Fraction(0)], [(Fraction(1, 4), 0), (1, 0)]),
    "abs": ([Fraction(0)], [(-1, 0), (1, 0)]),
    "clip": ([_LOW, _HIGH], [(0, _LOW), (1, 0), (0, _HIGH)]),
    "max_half": ([_HALF], [(0, _HALF), (1, 0)]),
}
SMALL = InputSplitOptions(block=32, capacity=1 << 12, steps=5)
MODES = {
    "signs": BranchOptions(block=16, narrow=0, steps=5),
    "inputs": BranchOptions(block=16, inputs=SMALL),
}
_SECONDS = 0.1

Piece = tuple[list[tuple[Fraction, Fraction]], np.ndarray]
"""A polygon (vertices in order), and the affine map (n, 3) of the layer's values."""


def at(line: np.ndarray, vertex: tuple[Fraction, Fraction]) -> Fraction:
    return line[0] * vertex[0] + line[1] * vertex[1] + line[2]


def _cut(
    vertices: list[tuple[Fraction, Fraction]], line: np.ndarray
) -> tuple[list[tuple[Fraction, Fraction]], list[tuple[Fraction, Fraction]]]:
    """Returns the parts of a polygon where the line is <= 0 and >= 0."""
    values = [at(line, v) for v in vertices]
    if all(v <= 0 for v in values):
        return vertices, []
    if all(v >= 0 for v in values):
        return [], vertices
    below, above = [], []
    for i, (p, a) in enumerate(zip(vertices, values, strict=True)):
        q, b = vertices[i - 1], values[i - 1]
        if a * b < 0:
            t = b / (b - a)
            crossing = q[0] + t * (p[0] - q[0]), q[1] + t * (p[1] - q[1])
            below.append(crossing)
            above.append(crossing)
        if a <= 0:
            below.append(p)
        if a >= 0:
            above.append(p)
    return below, above


def _constant(value: Any) -> np.ndarray:
    return np.array([Fraction(0), Fraction(0), Fraction(value)], object)


def _through(layer: str, p: Any, piece: Piece) -> list[Piece]:
    """Returns the pieces of a layer's values on one piece of its inputs."""
    vertices, rows = piece
    kind, *words = layer.split()
    if kind in ("dense", "residual"):
        out = np.matmul(p[0], rows)
        out[:, 2] += p[1]
        if kind == "dense":
            return [(vertices, out)]
        return [(v, r + rows) for v, r in _through("relu", (), (vertices, out))]
    if kind in LAYERS:
        evaluate = LAYERS[kind].numpy
        assert evaluate is not None and kind == "gap", kind
        return [(vertices, evaluate(FRACTIONS, words, p, rows.T).T)]
    if kind == "scale":
        gamma, beta, mean, spread = p
        out = rows * (gamma / spread)[:, None]
        out[:, 2] += beta - mean * (gamma / spread)
        return [(vertices, out)]
    half = len(rows) // 2
    pairs = kind in ("max_pair", "min_pair")
    count = half if pairs else len(rows)
    pieces = [(vertices, np.full((count, 3), Fraction(0), object))]
    for i in range(count):
        split: list[Piece] = []
        for inside, out in pieces:
            for part, row in _branches(kind, rows, i, half, inside):
                if part:
                    made = out.copy()
                    made[i] = row
                    split.append((part, made))
        pieces = split
    return pieces


def _branches(
    kind: str, rows: np.ndarray, i: int, half: int, inside: list[Any]
) -> list[tuple[list[Any], np.ndarray]]:
    if kind in ("max_pair", "min_pair"):
        a, b = rows[i], rows[half + i]
        below, above = _cut(inside, a - b)
        low, high = (b, a) if kind == "max_pair" else (a, b)
        return [(below, low), (above, high)]
    kinks, lines = _KINKS[kind]
    found, rest = [], inside
    for kink, (slope, intercept) in zip(kinks, lines[:-1], strict=True):
        below, rest = _cut(rest, rows[i] - _constant(kink)) if rest else ([], [])
        found.append((below, rows[i] * slope + _constant(intercept)))
    slope, intercept = lines[-1]
    return [*found, (rest, rows[i] * slope + _constant(intercept))]


def pieces_of(
    architecture: Architecture, params: Params, lo: np.ndarray, hi: np.ndarray
) -> list[Piece]:
    """Returns the closed polygons on which a network of two features is affine."""
    low, high = FRACTIONS.convert(lo), FRACTIONS.convert(hi)
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]),
               (low[0], high[1])]  # fmt: skip
    identity = np.array([[Fraction(1), Fraction(0), Fraction(0)],
                         [Fraction(0), Fraction(1), Fraction(0)]], object)  # fmt: skip
    pieces: list[Piece] = [(corners, identity)]
    for layer, p in zip(architecture.layers, params, strict=True):
        lifted = tuple(FRACTIONS.convert(v) for v in p)
        pieces = [q for piece in pieces for q in _through(layer, lifted, piece)]
    return pieces


def exact_minimum(
    architecture: Architecture,
    params: Params,
    lo: np.ndarray,
    hi: np.ndarray,
    row: np.ndarray,
) -> tuple[Fraction, np.ndarray]:
    """Returns min of `row y` over a box of two features, and a point, in fractions."""
    margin = FRACTIONS.convert(row)
    values = [
        (at(np.matmul(margin, rows), v), v)
        for vertices, rows in pieces_of(architecture, params, lo, hi)
        for v in vertices
    ]
    least, vertex = min(values, key=lambda pair: pair[0])
    return least, np.array([float(z) for z in vertex])


# ------------------------------------------------------------------------- verdicts


class Asker:
    """Asks the library about boxes, whatever way its users can.

    Routes: "jax", f and its weights as they are; "double", the same where float64 is
    enabled, so that f computes in it; "onnx", the network as a file of doubles.
    """

    def __init__(self, architecture: Architecture, route: str = "jax") -> None:
        self.architecture, self.f = architecture, architecture.function()
        self.route = route
        self._loaded: tuple[Any, Any] = (None, None)

    def network(self, params: Params) -> tuple[Any, Any]:
        """Returns the function and the weights that the library is handed."""
        if self.route != "onnx":
            return self.f, params
        if self._loaded[0] is not params:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "network.onnx"
                path.write_bytes(to_onnx(self.architecture, params, np.float64))
                self._loaded = params, jc.load_onnx(path)
        loaded = self._loaded[1]
        return loaded.apply, loaded.params

    def verdict(
        self,
        params: Params,
        box: tuple[np.ndarray, np.ndarray],
        spec: Spec,
        way: str,
        seconds: float,
    ) -> Any:
        """Returns the verdict of verify ("ibp", "crown") or of the complete oracle.

        The complete oracle, "signs" or "inputs", is asked as verify asks it after
        bounds and attack, but with a deadline after so many seconds.
        """
        whole = jc.Box(*box)  # type: ignore[arg-type]
        f, weights = self.network(params)
        with self.context():
            if way in ("ibp", "crown"):
                options = CertifyOptions(oracle=way, attack=AttackOptions())
                return jc.verify(f, weights, whole, spec, options=options)
            model = Model(f, weights, box[0].shape)
            deadline = time.monotonic() + seconds
            effort = Effort(branch=MODES[way])
            return decide(model, whole, spec, effort, deadline).verdict

    def context(self) -> Any:
        """Returns the context in which f computes what it is judged by."""
        return jax.enable_x64(True) if self.route == "double" else nullcontext()

    def ask(
        self,
        tally: Tally,
        params: Params,
        box: tuple[np.ndarray, np.ndarray],
        spec: tuple[np.ndarray, np.ndarray],
        way: str,
        least: Fraction | None,
        known: np.ndarray,
        seconds: float = _SECONDS,
    ) -> Any:
        """Returns the status after holding the verdict against what is known.

        Where the least margin is known, notes count what stays unknown although it is
        true, or although the spec is violated at the point.

        Args:
          tally: counts it.
          params: the network.
          box: (lo, hi).
          spec: (rows, offset), numpy float64.
          way: see `verdict`.
          least: exact least margin over the box, if that is known.
          known: a point of the box, where a PROVED is judged.
          seconds: see `verdict`.
        """
        (lo, hi), (rows, offset) = box, spec
        spec_ = jc.Spec.rows(rows, offset)  # type: ignore[arg-type]
        verdict = self.verdict(params, (lo, hi), spec_, way, seconds)
        tally.count(verdict.status)
        if least is not None and verdict.status == Status.UNKNOWN:
            held = exact_margin(self.architecture, params, known, rows, offset) > 0
            if least > 0 or not held:
                tally.note(f"{'true' if held else 'violated'} but unknown, {way}")

        def doubt(claim: str, point: Any) -> None:
            tally.suspicions.append(
                Suspicion(claim, way, self.architecture, params, lo, hi, rows, offset,
                          point, self.route)
            )  # fmt: skip

        if verdict.proved:
            if least is not None and least <= 0:
                doubt("proved, exactly not", known)
            elif exact_margin(self.architecture, params, known, rows, offset) <= 0:
                doubt("proved", known)
        if verdict.refuted:
            point = np.asarray(verdict.witness)
            if not ((lo <= point) & (point <= hi)).all():
                doubt("witness outside", point)
            elif exact_margin(self.architecture, params, point, rows, offset) > 0:
                doubt("refuted", point)
        return verdict.status


def exact_group(
    problems: Problems,
    rng: np.random.Generator,
    ways: tuple[str, ...] = ("ibp", "crown", "signs", "inputs"),
    seconds: float = _SECONDS,
) -> Tally:
    """Returns verdicts of networks with two inputs, judged by fractions."""
    tally = Tally(networks=len(problems.lo) // BOXES_PER_NETWORK)
    asker = Asker(problems.architecture)
    for m in range(0, len(problems.lo), BOXES_PER_NETWORK):
        params = pick(problems.params, m)
        box = problems.lo[m], problems.hi[m]
        row = problems.rows[m, :1]
        least, vertex = exact_minimum(problems.architecture, params, *box, row[0])
        known = np.clip(vertex, *box)
        scale = 1 + min(abs(least), Fraction(10) ** 300)
        below = rng.choice([-1e-3, -1e-7, -1e-10, -1e-12, -1e-14, 0.0])
        shifts = [below, 1e-3, rng.choice([1e-10, 1e-7])]
        for shift in shifts:
            if abs(least) > 1e300:
                tally.note("beyond float64")
                continue
            offset = np.array([float(Fraction(float(shift)) * scale - least)])
            exact = least + Fraction(float(offset[0]))
            for way in ways:
                spec = row, offset
                asker.ask(tally, params, box, spec, way, exact, known, seconds)
    return tally


def complete_group(problems: Problems, rng: np.random.Generator) -> Tally:
    """Returns complete verdicts of networks of any width, judged at points."""
    ways = ["inputs"] if problems.lo[0].size <= 8 else []
    ways += ["signs"] if problems.architecture.piecewise or not ways else []
    return points_group(problems, rng, tuple(ways))


def points_group(
    problems: Problems,
    rng: np.random.Generator,
    ways: tuple[str, ...],
    shifts: tuple[float, ...] = (-1e-3, -1e-9, -1e-15, 0, 1e-9, 1e-2),
) -> Tally:
    """Returns verdicts on specs that the worst point found just misses or meets."""
    tally = Tally(networks=len(problems.lo) // BOXES_PER_NETWORK)
    asker = Asker(problems.architecture)
    least, points = least_values(problems, rng, asker.f)
    for m in range(len(problems.lo)):
        r = int(rng.integers(problems.rows.shape[1]))
        if not np.isfinite(float(least[m, r])):
            tally.note("unjudged")
            continue
        scale = 1 + abs(float(least[m, r]))
        for shift in rng.choice(shifts, 2, False):
            offset = (LONG.convert(shift * scale) - least[m, r]).astype(np.float64)
            spec = problems.rows[m, r : r + 1], np.array([offset])
            box = problems.lo[m], problems.hi[m]
            for way in ways:
                status = asker.ask(
                    tally, pick(problems.params, m), box, spec, way, None, points[m, r]
                )
                if status == Status.UNKNOWN and shift < -1e-12:
                    tally.note(f"violated by {-shift:g} but unknown, {way}")
    return tally
