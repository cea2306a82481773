"""Checks a run of certify.py by mixed-integer programming: another program, slower.

    python experiments/milp_reference.py --model=NET.onnx --run=out/certify

For every certified input it asks HiGHS for the least margin over the stored box (the
lower end of the bracket), and evaluates the stored witness (the upper end). It reads
the ONNX file and the run by itself and shares no code with jaxcert's bounds, search or
ONNX reader. Works for fully connected ReLU networks. Exit code 1 if the run claims
something that is false; the input, its box and the violating point are printed.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import _common
import numpy as np
import scipy.optimize
import scipy.sparse
from absl import flags, logging

from jaxcert.errors import InputError, JaxcertError, UnsupportedError

_MODEL = flags.DEFINE_string("model", None, "The .onnx (or .onnx.gz) file of the run.")
_RUN = flags.DEFINE_string("run", None, "The --output folder of certify.py.")
_INPUTS = flags.DEFINE_string("inputs", "all", "Rows of the run (0:10; 3,17; all).")
_TIME_LIMIT = flags.DEFINE_float("time_limit", 60.0, "Seconds of HiGHS per target.")
_OUTPUT = flags.DEFINE_string("output", None, "JSONL file of the results, if any.")

# HiGHS meets constraints and integrality within 1e-6: what is closer decides nothing.
_SOLVER_ERROR = 1e-6
# Margins beyond required + this are not told apart, which prunes most of the tree.
_CUTOFF = 1e-3
_ROUNDING = 1e-12  # of an apothem, relative to inputs of about 1


# ------------------------------------------------------------------- the network


@dataclasses.dataclass(frozen=True)
class Mlp:
    """Affine layers `W x + b`, W of shape (out, in), with a ReLU between any two."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def margin(self, x: np.ndarray, label: int) -> tuple[float, float]:
        """Returns the margin at x in float64, and a bound of its rounding error.

        The error of a sum of n terms, in any order, is at most gamma_n times the sum of
        absolute values (Higham, Accuracy and Stability, section 3.1).
        """
        value, error = x, np.zeros_like(x)
        for index, (weight, bias) in enumerate(self.layers):
            gamma = (weight.shape[1] + 2) * 2.0**-52
            size = np.abs(weight) @ (np.abs(value) + error) + np.abs(bias)
            error = np.abs(weight) @ error * (1 + gamma) + gamma * size
            value = weight @ value + bias
            if index < len(self.layers) - 1:
                value = np.maximum(value, 0)
        rows = value[label] - value
        errors = (error[label] + error) * (1 + 2**-50) + np.abs(rows) * 2**-52
        others = np.arange(len(value)) != label
        least = int(np.argmin(np.where(others, rows, np.inf)))
        return float(rows[least]), float(errors[others].max())


def read_mlp(path: str) -> Mlp:
    """Returns the network of an ONNX file that is a chain of affine maps and ReLUs."""
    import onnx

    data = Path(path).read_bytes()
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # whatever protobuf and zlib raise on damaged files
        raise InputError(f"{path} is not a readable ONNX file ({error})") from error
    constants = {
        t.name: onnx.numpy_helper.to_array(t).astype(np.float64)
        for t in graph.initializer
    }
    sources = [i for i in graph.input if i.name not in constants]
    if len(sources) != 1 or len(graph.output) != 1:
        raise UnsupportedError(f"{path} does not have one input and one output")
    dims = sources[0].type.tensor_type.shape.dim
    chain = _Chain(path, sources[0].name, tuple(d.dim_value or 1 for d in dims))
    for node in graph.node:
        attributes = {
            a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
        }
        if node.op_type == "Constant" and "value" in attributes:
            array = onnx.numpy_helper.to_array(attributes["value"])
            constants[node.output[0]] = array.astype(np.float64)
        else:
            operands = [constants.get(name) for name in node.input]
            chain.append(node, operands, attributes)
    if chain.name != graph.output[0].name:
        raise UnsupportedError(f"the output of {path} is not the end of its chain")
    return chain.finish()


class _Chain:
    """Composes the nodes of a chain; W, b are the affine map since the last ReLU."""

    def __init__(self, path: str, name: str, shape: tuple[int, ...]) -> None:
        self.path, self.name, self.shape = path, name, shape
        self.layers: list[tuple[np.ndarray, np.ndarray]] = []
        self.begin()

    def begin(self) -> None:
        size = math.prod(self.shape)
        self.weight, self.bias = np.eye(size), np.zeros(size)
        self.empty = True

    def append(
        self, node: Any, operands: list[np.ndarray | None], attributes: dict[str, Any]
    ) -> None:
        """Takes the next node; `operands` are its constants, None for the others."""
        kind = node.op_type
        where = f"{kind} '{node.name}' in {self.path}"
        varying = [
            name for name, c in zip(node.input, operands, strict=True) if c is None
        ]
        if varying != [self.name]:
            raise UnsupportedError(f"{where} is no link of a chain")
        first = operands[0] is None
        constant = next((c for c in operands if c is not None), None)
        self.name = node.output[0]
        if kind == "Relu":
            self.layers.append((self.weight, self.bias))
            self.begin()
        elif kind in ("Flatten", "Reshape", "Identity"):
            if kind == "Flatten":
                axis = attributes.get("axis", 1)
                self.shape = (
                    math.prod(self.shape[:axis]),
                    math.prod(self.shape[axis:]),
                )
            elif kind == "Reshape" and constant is not None:
                target = tuple(int(v) for v in constant.reshape(-1))
                self.shape = np.empty(self.shape, bool).reshape(target).shape
        elif constant is None or (not first and kind not in ("Add", "Sub", "Mul")):
            raise UnsupportedError(f"{where} has no place in a ReLU MLP")
        elif kind == "MatMul":
            self.multiply(constant.T, np.zeros(constant.shape[1]), where)
        elif kind == "Gemm":
            weight = constant if attributes.get("transB", 0) else constant.T
            bias = operands[2] if len(operands) > 2 else None
            bias = np.zeros(1) if bias is None else bias
            if attributes.get("transA", 0):
                raise UnsupportedError(f"{where} transposes its input")
            full = np.broadcast_to(bias.reshape(-1), weight.shape[:1])
            alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
            self.multiply(alpha * weight, beta * full, where)
        elif kind in ("Add", "Sub", "Mul", "Div"):
            self.elementwise(kind, constant, first, where)
        else:
            raise UnsupportedError(f"{where} has no place in a ReLU MLP")

    def multiply(self, weight: np.ndarray, bias: np.ndarray, where: str) -> None:
        size = math.prod(self.shape)
        if weight.ndim != 2 or weight.shape[1] != size or self.shape[-1] != size:
            raise UnsupportedError(f"{where} does not fit the shape {self.shape}")
        self.bias = weight @ self.bias + bias
        self.weight = weight.copy() if self.empty else weight @ self.weight
        self.shape = (*self.shape[:-1], len(weight))
        self.empty = False

    def elementwise(
        self, kind: str, constant: np.ndarray, first: bool, where: str
    ) -> None:
        if np.broadcast_shapes(constant.shape, self.shape) != self.shape:
            raise UnsupportedError(f"{where} does not fit the shape {self.shape}")
        value = np.broadcast_to(constant, self.shape).reshape(-1)
        if kind in ("Mul", "Div"):
            value = 1 / value if kind == "Div" else value
            self.weight = value[:, None] * self.weight
            self.bias = value * self.bias
            self.empty = False
        elif first:
            self.bias = self.bias - value if kind == "Sub" else self.bias + value
        else:
            sign = -1 if kind == "Sub" else 1
            self.weight, self.bias = sign * self.weight, sign * self.bias + value
            self.empty = self.empty and sign == 1

    def finish(self) -> Mlp:
        return Mlp((*self.layers, (self.weight, self.bias)))


# ----------------------------------------------------------------- the programme


@dataclasses.dataclass(frozen=True)
class Answer:
    """What HiGHS says of a box.

    Attributes:
      status: whether margin > required all over the box.
      bound: proved lower bound of the least margin, up to the solver's tolerance.
      point: the point of least margin that was found, if any, and its margin.
    """

    status: Literal["holds", "violated", "unknown"]
    bound: float
    point: np.ndarray | None = None
    margin: float = math.nan


class Encoding:
    """The network over a box as linear constraints: x, then z, a, s of every layer.

    z = W a' + b; a = relu(z); s is 1 where the neuron is on. A stable neuron has s
    fixed. Over s in [0, 1] the constraints are those of the triangle relaxation.

    z and a are stored in units of the neuron's own range. Solvers work with absolute
    tolerances, and neurons with weights of 1e-7 have made some answer falsely.
    """

    def __init__(self, lo: np.ndarray, hi: np.ndarray) -> None:
        self.lower, self.upper = [lo], [hi]
        self.integrality = [np.zeros(len(lo))]
        self.blocks: list[list[tuple[int, scipy.sparse.spmatrix]]] = []
        self.row_lower: list[np.ndarray] = []
        self.row_upper: list[np.ndarray] = []
        # Where the activations of the last layer are, and their units.
        self.last, self.unit = slice(0, len(lo)), np.ones(len(lo))

    def append(
        self, weight: np.ndarray, bias: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        """Appends a layer with bounds low <= z <= high of its pre-activations."""
        n = len(bias)
        weight = weight * self.unit
        self.unit = np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-12)
        weight = weight / self.unit[:, None]
        bias, low, high = bias / self.unit, low / self.unit, high / self.unit
        start = sum(map(len, self.lower))
        z, a, s = start, start + n, start + 2 * n
        one = scipy.sparse.identity(n)
        infinite, zero = np.full(n, np.inf), np.zeros(n)
        minus, plus = np.minimum(low, 0), np.maximum(high, 0)
        dense = scipy.sparse.csr_array(weight)
        self.rows([(self.last.start, -dense), (z, one)], bias, bias)
        self.rows([(a, one), (z, -one)], zero, infinite)
        # a <= z - minus (1 - s) and a <= plus s
        self.rows(
            [(a, one), (z, -one), (s, scipy.sparse.diags_array(-minus))],
            -infinite,
            -minus,
        )
        self.rows([(a, one), (s, scipy.sparse.diags_array(-plus))], -infinite, zero)
        off, on = high <= 0, low >= 0
        self.lower += [low, zero, np.where(on & ~off, 1.0, 0.0)]
        self.upper += [high, plus, np.where(off, 0.0, 1.0)]
        self.integrality += [zero, zero, np.where(off | on, 0.0, 1.0)]
        self.last = slice(a, a + n)

    def rows(
        self,
        blocks: list[tuple[int, Any]],
        lower: np.ndarray,
        upper: np.ndarray,
    ) -> None:
        self.blocks.append(blocks)
        self.row_lower.append(lower)
        self.row_upper.append(upper)

    def activation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns bounds of the activations of the last layer."""
        lower, upper = np.concatenate(self.lower), np.concatenate(self.upper)
        return lower[self.last] * self.unit, upper[self.last] * self.unit

    def minimise(
        self, cost: np.ndarray, integer: bool, time_limit: float, cutoff: float = np.inf
    ) -> tuple[float, np.ndarray | None]:
        """Returns a lower bound of min(cost @ a, cutoff), and the best x found.

        a are the activations of the last layer; without `integer`, of the relaxation.
        """
        size = sum(map(len, self.lower))
        matrices = [self._matrix(blocks, size) for blocks in self.blocks]
        full = np.zeros(size)
        full[self.last] = cost * self.unit
        constraints = []
        if matrices:
            constraints.append(
                scipy.optimize.LinearConstraint(
                    scipy.sparse.vstack(matrices, format="csr"),
                    np.concatenate(self.row_lower),
                    np.concatenate(self.row_upper),
                )
            )
        if cutoff < np.inf:
            row = scipy.sparse.csr_array(full[None])
            constraints.append(scipy.optimize.LinearConstraint(row, -np.inf, cutoff))
        result = scipy.optimize.milp(
            full,
            integrality=np.concatenate(self.integrality) if integer else None,
            bounds=scipy.optimize.Bounds(
                np.concatenate(self.lower), np.concatenate(self.upper)
            ),
            constraints=constraints,
            options={"time_limit": time_limit, "mip_rel_gap": 0.0},
        )
        x = None if result.x is None else result.x[: len(self.lower[0])]
        if result.status == 2:  # infeasible: nothing lies below the cutoff
            return cutoff, None
        bound = result.get("mip_dual_bound")
        if bound is None and result.status == 0:
            bound = result.fun
        return (-np.inf if bound is None else min(float(bound), cutoff)), x

    def _matrix(self, blocks: list[tuple[int, Any]], size: int) -> Any:
        parts = [(at, scipy.sparse.coo_array(matrix)) for at, matrix in blocks]
        data = np.concatenate([m.data for _, m in parts])
        row = np.concatenate([m.coords[0] for _, m in parts])
        column = np.concatenate([m.coords[1] + at for at, m in parts])
        shape = (parts[0][1].shape[0], size)
        return scipy.sparse.csr_array((data, (row, column)), shape=shape)


def encode(network: Mlp, lo: np.ndarray, hi: np.ndarray, time_limit: float) -> Encoding:
    """Returns the hidden layers over a box, with the bounds of their neurons.

    Interval bounds, which are exact for the first layer; behind it the relaxation's
    bounds for every neuron that intervals leave undecided.
    """
    encoding = Encoding(lo, hi)
    for depth, (weight, bias) in enumerate(network.layers[:-1]):
        low, high = _interval(weight, bias, *encoding.activation_bounds())
        if depth > 0:
            for i in np.flatnonzero((low < 0) & (high > 0)):
                least, _ = encoding.minimise(weight[i], False, time_limit)
                most, _ = encoding.minimise(-weight[i], False, time_limit)
                low[i] = max(low[i], least + bias[i] - _SOLVER_ERROR)
                high[i] = min(high[i], -most + bias[i] + _SOLVER_ERROR)
        # A rounding error of the bounds must not cut off the network's own values.
        width = 1e-9 * (1 + np.maximum(np.abs(low), np.abs(high)))
        encoding.append(weight, bias, low - width, high + width)
    return encoding


def _interval(
    weight: np.ndarray, bias: np.ndarray, lo: np.ndarray, hi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    return positive @ lo + negative @ hi + bias, positive @ hi + negative @ lo + bias


def check_box(
    network: Mlp,
    lo: np.ndarray,
    hi: np.ndarray,
    label: int,
    required: float,
    time_limit: float,
) -> Answer:
    """Returns whether the margin of the label exceeds `required` all over the box.

    One programme per target that intervals do not exclude. A violation counts only as a
    point of the box at which the network, evaluated in float64 with its rounding error,
    has margin <= required.
    """
    encoding = encode(network, lo, hi, time_limit)
    weight, bias = network.layers[-1]
    least, best, best_margin = np.inf, None, np.inf
    for target in range(len(bias)):
        if target == label:
            continue
        cost = weight[label] - weight[target]
        offset = bias[label] - bias[target]
        bound = _interval(cost[None], offset, *encoding.activation_bounds())[0].item()
        x = None
        if bound <= required + _CUTOFF:
            cutoff = required + _CUTOFF - offset
            below, x = encoding.minimise(cost, True, time_limit, cutoff)
            bound = max(bound, below + offset)
        least = min(least, bound)
        if x is not None:
            x = np.clip(x, lo, hi)
            margin, error = network.margin(x, label)
            if margin < best_margin:
                best, best_margin = x, margin
            if margin + error <= required:
                return Answer("violated", least, x, margin)
    status: Literal["holds", "unknown"] = "unknown"
    if least > required + _SOLVER_ERROR:
        status = "holds"
    return Answer(status, float(least), best, best_margin)


def check_ball(
    network: Mlp,
    x: np.ndarray,
    label: int,
    radius: float,
    domain: tuple[float, float] = (0.0, 1.0),
    required: float = 0.0,
    time_limit: float = 60.0,
) -> Answer:
    """Returns `check_box` of the clipped ball of a radius around x."""
    lo, hi = np.maximum(x - radius, domain[0]), np.minimum(x + radius, domain[1])
    return check_box(network, lo, hi, label, required, time_limit)


# ----------------------------------------------------------------------- the run


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a run says of one input."""

    record: dict[str, Any]
    x: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    witness: np.ndarray
    domain: tuple[float, float]


def read_claims(folder: Path) -> list[Claim]:
    """Returns the rows of a finished run, in the order of its certificates.jsonl."""
    try:
        return _read_claims(folder)
    except JaxcertError:
        raise
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{folder} is no finished run of certify.py ({error!r}): finish it with "
            "--resume"
        ) from error


def _read_claims(folder: Path) -> list[Claim]:
    lines = folder / "certificates.jsonl"
    if not lines.is_file():
        raise InputError(f"{folder} holds no certificates.jsonl: name a finished run")
    records = [json.loads(line) for line in lines.read_text().splitlines() if line]
    settings = json.loads((folder / "run.json").read_text())["config"]
    domain = (float(settings["domain_lower"]), float(settings["domain_upper"]))
    with np.load(folder / "boxes.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in ("x", "lo", "hi", "witness")}
        names = stored["input"].tolist()
    if names != [record["input"] for record in records]:
        raise InputError(f"{folder}: boxes.npz and certificates.jsonl differ in rows")
    flat = [arrays[n].reshape(len(names), -1) for n in ("x", "lo", "hi", "witness")]
    return [
        Claim(record, x, lo, hi, witness, domain)
        for record, x, lo, hi, witness in zip(records, *flat, strict=True)
    ]


def check_lower(network: Mlp, claim: Claim, time_limit: float) -> tuple[Answer, str]:
    """Returns the answer for the stored box, and what else is wrong with it, or ''."""
    record = claim.record
    required = float(record["required_margin"])
    label = int(record["predicted"])
    answer = check_box(network, claim.lo, claim.hi, label, required, time_limit)
    fault = ""
    if not np.all((claim.lo <= claim.x) & (claim.x <= claim.hi)):
        fault = "the input lies outside its box"
    if record["objective"] == "apothem":
        radius = float(record["apothem_lower"]) - _ROUNDING
        lo = np.maximum(claim.x - radius, claim.domain[0])
        hi = np.minimum(claim.x + radius, claim.domain[1])
        if not np.all((claim.lo <= lo) & (hi <= claim.hi)):
            fault = "the box is smaller than apothem_lower"
    return answer, fault


def check_upper(network: Mlp, claim: Claim) -> tuple[str, float]:
    """Returns confirmed, contradicted, unknown or none; and the witness's margin."""
    record, witness = claim.record, claim.witness
    if np.all(np.isnan(witness)):
        return ("none" if math.isinf(float(record["apothem_upper"])) else "missing"), (
            math.nan
        )
    margin, error = network.margin(witness, int(record["predicted"]))
    required = float(record["required_margin"])
    reach = float(np.max(np.abs(witness - claim.x)))
    inside = np.all((claim.domain[0] <= witness) & (witness <= claim.domain[1]))
    near = reach <= float(record["apothem_upper"]) + _ROUNDING
    if not inside or (record["objective"] == "apothem" and not near):
        return "contradicted", margin
    if margin + error <= required:
        return "confirmed", margin
    return ("contradicted" if margin - error > required else "unknown"), margin


def _select(text: str, count: int) -> list[int]:
    """Returns the rows that a selection names."""
    try:
        if text == "all":
            return list(range(count))
        if ":" in text:
            start, stop = (int(part) if part else None for part in text.split(":"))
            return list(range(count))[start:stop]
        return [range(count)[int(part)] for part in text.split(",")]
    except (ValueError, IndexError) as error:
        raise InputError(
            f"--inputs={text} names no rows of a run of {count}: write 0:9; 3,17; all"
        ) from error


def main(argv: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    del argv
    if not _MODEL.value or not _RUN.value:
        raise InputError("give the network with --model and the run with --run")
    if not _TIME_LIMIT.value > 0:
        raise InputError(f"time_limit is {_TIME_LIMIT.value}; it must be > 0")
    network = read_mlp(_MODEL.value)
    claims = read_claims(Path(_RUN.value))
    chosen = [claims[row] for row in _select(_INPUTS.value, len(claims))]
    size = network.layers[0][0].shape[1]
    if any(claim.x.size != size for claim in chosen):
        raise InputError(f"{_MODEL.value} takes {size} values, the run has others")
    if _OUTPUT.value:
        Path(_OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        with open(_OUTPUT.value, "w") as output:
            return _check(network, chosen, output)
    return _check(network, chosen, None)


def _check(network: Mlp, claims: Sequence[Claim], output: IO[str] | None) -> int:
    """Checks the claims, prints contradictions and the summary; returns the code."""
    begin = time.perf_counter()
    lower = dict.fromkeys(("confirmed", "contradicted", "unknown"), 0)
    upper = dict.fromkeys(
        ("confirmed", "contradicted", "unknown", "missing", "none"), 0
    )
    skipped = 0
    for claim in claims:
        if claim.record["status"] != "certified":
            skipped += 1
            continue
        start = time.perf_counter()
        answer, fault = check_lower(network, claim, _TIME_LIMIT.value)
        ends = {"holds": "confirmed", "violated": "contradicted", "unknown": "unknown"}
        below = "contradicted" if fault else ends[answer.status]
        above, margin = check_upper(network, claim)
        lower[below] += 1
        upper[above] += 1
        seconds = time.perf_counter() - start
        name = claim.record["input"]
        result: dict[str, Any] = {
            "input": name,
            "lower": below,
            "least_margin_bound": answer.bound,
            "least_margin_found": None if answer.point is None else answer.margin,
            "fault": fault,
            "upper": above,
            "witness_margin": None if math.isnan(margin) else margin,
            "seconds": round(seconds, 6),
        }
        if below == "contradicted":
            point = None if answer.point is None else answer.point.tolist()
            result |= {"lo": claim.lo.tolist(), "hi": claim.hi.tolist(), "point": point}
        if above == "contradicted":
            result["witness"] = claim.witness.tolist()
        if "contradicted" in (below, above):
            print(f"CONTRADICTION {json.dumps(result)}", flush=True)
        elif "unknown" in (below, above):
            logging.warning("%s: lower end %s, witness %s", name, below, above)
        if output is not None:
            output.write(json.dumps(result) + "\n")
            output.flush()
    print(
        f"{sum(lower.values())} checked in {time.perf_counter() - begin:.1f} s "
        f"({skipped} not certified): lower ends {_counts(lower)}; "
        f"witnesses {_counts(upper)}"
    )
    return 1 if lower["contradicted"] or upper["contradicted"] else 0


def _counts(counts: dict[str, int]) -> str:
    always = ("confirmed", "contradicted", "unknown")
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n or word in always)


if __name__ == "__main__":
    _common.run(main)
