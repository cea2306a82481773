"""An independent check of robustness certificates: numpy and the standard library only.

A certificate claims, of a feed-forward ReLU network y(z) and a class c, that
    y_c(z) - y_j(z) > m   for every class j != c and every z with lo <= z <= hi,
that [lo, hi] contains the ball clip([x - r rate_lo, x + r rate_hi], domain), and that a
witness w of the domain, at weighted distance <= u from x, has y_c(w) - y_j(w) <= m for
some j. Nothing of the search is trusted: it hands over multipliers, and every bound is
derived from them here. Wrong multipliers give a weak bound, never a false one.

Files (version 1) are .npz without pickles. Value 0 is the input, node k makes value k+1
from earlier ones, the last value holds the logits; values are flat vectors.
  network: `header`, JSON as uint8: {"format": "jaxcert network", "version": 1,
    "input_shape": [...], "nodes": [{"op": "affine", "size": n, "terms": [TERM...],
    "offset": NAME or null} or {"op": "relu", "size": n, "input": v}, ...]}, where TERM
    has an "input" v and a "kind": "dense" with "weight" (n, size of v); "index" with
    "index" int32 (n,), y_i = v[index_i], or 0 for -1; "sparse" with CSR "data",
    "column", "start". Its sha256 is taken over the header, then over all other members
    in the order of names: f"{name}|{dtype.str}|{shape}", and the bytes of the array.
  certificate: `header` {"format": "jaxcert certificate", "version": 1, "network":
    {"sha256", "file": name of a file beside this one}, "arithmetic": "real" or
    "float32", "label": c, "required_margin": m, "apothem_lower": r or null (all faces
    on the domain), "apothem_upper": u or null (no witness), "refine": bool}, numbers
    rounded to float64; float64 x, lo, hi, domain_lo, domain_hi, rate_lo, rate_hi,
    witness; of L leaves over the N inputs z of all ReLUs: leaf_target int32 (L,), j;
    leaf_signs int8 (L, N), 1 assumes z >= 0, -1 z <= 0; leaf_slopes float32 (L, N) in
    [0, 1]; leaf_betas float32 (L, N), >= 0 and only where a sign is. range_slopes_<k>
    uint8 (2, n, M), 128ths, may bound the inputs of ReLU k from below and from above.
  Version 2 of a certificate also has cuts, which check_cuts.py beside this file checks.

The proof. Ranges of all values enclose the network over the box (`enclose`). A leaf
assumes signs; the leaves of a class form a binary tree and so cover the box (`cover`).
In each, y_c - y_j - m is bounded by replacing ReLUs by lines (`through_relu`), from the
output back to the input, where the box gives the minimum (`lower_bounds`).

Arithmetic is rational, or IEEE float64 rounded to nearest, in which A @ B is off by at
most gamma_n |A| |B|, gamma_n = n u / (1 - n u), u = 2^-53, in any order of summation,
fused or not (Higham, Accuracy and Stability, chapter 3), and by underflow; all else is
stepped outward. An error E of the coefficients of a value v costs E @ max |v| at once.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import stat
import time
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np

_BYTES, _HEADER = 2**30, 2**24  # at most: of a file, packed or not; of its header
_NUMBERS, _BLOCK = 2**25, 2**22  # at most: in all matrices; in one block of rows
_TINY = 2.0**-800  # above every sum of underflows, of 2^-1022 per operation
_LARGEST = 2.0**150  # of a value
_NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}"
_CLAIM = ("label", "required_margin", "arithmetic", "apothem_lower", "apothem_upper")
_FEATURES = ("domain_lo", "lo", "x", "hi", "domain_hi", "rate_lo", "rate_hi")


@dataclass(frozen=True)
class Report:
    """What was found; of a rejected file nothing but the reason. Null ends are inf."""

    accepted: bool
    reason: str
    seconds: float
    network_sha256: str = ""
    label: int = -1
    required_margin: float = math.nan
    arithmetic: str = ""
    apothem_lower: float = math.nan
    apothem_upper: float = math.nan
    leaves: int = 0


def check_certificate(
    path: str | os.PathLike[str], *, network: str | None = None, exact: bool = False
) -> Report:
    """Returns whether the file proves what it claims, and if not, why. Never raises.

    The network file that it names lies in the same folder and must have the sha256
    that it states, and that of `network`, if given: which one is meant only the caller
    can know. `exact` computes in rational numbers, instead of float64.
    """
    return report_on(Certificate, path, network, exact)


def report_on(kind, path, network: str | None, exact: bool) -> Report:
    """Returns what a certificate of that kind proves. Never raises."""
    begin, found, reason = time.perf_counter(), {}, ""
    try:
        with np.errstate(all="ignore"):
            found = kind(path, network, exact).check()
    except _Rejected as rejected:
        reason = str(rejected)
    except Exception as error:  # whatever a damaged file provokes: not accepted
        reason = f"damaged file: {type(error).__name__}: {str(error)[:200]}"
    seconds = time.perf_counter() - begin
    return Report(not reason, " ".join(reason.split()), seconds, **found)


class _Rejected(Exception):
    """Says why a file is not accepted."""


def need(condition, reason: str) -> None:
    """Rejects, unless the condition holds; of an array, everywhere."""
    if not (condition if isinstance(condition, bool) else np.all(condition)):
        place = np.argwhere(~np.asarray(condition, bool)).tolist()[0]
        raise _Rejected(reason + (f" at {place}" if place else ""))


def _whole(value: Any, low: float, high: float, what: str, types=(int,)):
    """Returns the value, an integer (or another type) with low <= value < high."""
    good = type(value) in types and low <= value < high
    need(good, f"{what} is {str(value)[:40]!r}")
    return value


def _read(path) -> bytes:
    """Returns the bytes of a regular file of bounded size."""
    status, name = os.stat(path), os.path.basename(path)
    need(stat.S_ISREG(status.st_mode), f"{name} is no file")
    need(status.st_size <= _BYTES, f"{name} has more than {_BYTES} bytes")
    with open(path, "rb") as file:
        return file.read(_BYTES)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object; two members of one name would leave its meaning open."""
    need(len(dict(pairs)) == len(pairs), "a name stands twice in the header")
    return dict(pairs)


def _unpacked(raw: bytes, form: str, newest: int = 1):
    """Returns header bytes, header and finite arrays; sizes are checked before use."""
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        total = sum(member.file_size for member in archive.infolist())
        need(total <= _BYTES, f"{total} bytes of arrays, more than {_BYTES}")
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            need(bool(re.fullmatch(_NAME, name)), f"array named {name!r}")
            need(name not in arrays, f"two arrays named {name!r}")
            known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            need(known, f"array {name!r} is packed in an unknown way")
            with archive.open(member) as file:
                np.lib.format.read_magic(file)
                shape, columns, dtype = np.lib.format.read_array_header_1_0(file)
                need(not dtype.hasobject, f"array {name!r} holds pickled objects")
                known = dtype.str in ("<f8", "<f4", "<i4", "|i1", "|u1")
                need(known, f"array {name!r} has type {dtype.str}")
                size = math.prod(shape) * dtype.itemsize + file.tell()
                need(size == member.file_size, f"array {name!r} has another size")
                flat = np.frombuffer(file.read(), dtype)
            need(np.isfinite(flat), f"array {name!r} has a NaN or an infinity")
            arrays[name] = flat.reshape(shape, order="F" if columns else "C")
    text = arrays.pop("header", np.zeros(0, np.uint8)).tobytes()
    need(len(text) <= _HEADER and text.endswith(b"}"), "there is no header")
    head = json.loads(text, object_pairs_hook=_unique)
    found, form = head.get("format"), f"jaxcert {form}"
    need(found == form, f"format {str(found)[:40]!r}, not {form!r}")
    _whole(head.get("version"), 1, newest + 1, "version of the format")
    return text, head, arrays


def take(arrays, name, types: str, shape: tuple[int, ...]):
    """Returns the array of that name, of one of the types and of that shape."""
    need(isinstance(name, str) and name in arrays, f"there is no array {name!r}")
    kind, have = arrays[name].dtype.str[1:], arrays[name].shape
    need(kind in types.split(), f"array {name!r} has type {kind}, not {types}")
    need(bool(have == shape), f"array {name!r} has shape {have}, not {shape}")
    return arrays[name]


class Arithmetic:
    """Fractions in object arrays if `exact`, else float64 stepped outward."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.zero, self.one, self.half = map(self.number, (0.0, 1.0, 0.5))

    def number(self, array):
        """Returns the same numbers."""
        if self.exact:
            return _each(lambda value: Fraction(float(value)), array)
        return np.asarray(array, np.float64)

    def up(self, x):
        """Returns >= every number that one operation may have rounded to x."""
        return x if self.exact else np.nextafter(x + _TINY, np.inf)

    def down(self, x):
        """Returns <= every number that one operation may have rounded to x."""
        return -self.up(-x)

    def dot(self, a, b):
        """Returns a @ b as computed."""
        if not self.exact:
            return a @ b
        (p, s), (q, t) = (_integers(matrix) for matrix in (a, b))
        return _each(lambda value: Fraction(value, s * t), p @ q)

    def bound(self, a, b):
        """Returns >= a @ b, for b >= 0 and a >= 0 whose entries may be rounded once.

        (1 - gamma_{n+1}) a @ b <= fl(a @ b), and 1 <= (1 - gamma_{n+1}) (1 + 2(n+4)u).
        """
        share = 1 if self.exact else 1 + (len(b) + 4) * 2.0**-52
        return self.up(self.dot(a, b) * share)

    def charge(self, a, reach, n=1):
        """Returns >= |error of a @ w| @ size, for reach >= |w| @ size, w of n rows.

        |error| <= gamma_n |a| |w|, gamma_n <= 2 n u. No w: of a, rounded once.
        """
        if self.exact:
            return Fraction(0)
        return self.up((n + 4) * 2.0**-52 * self.bound(abs(a), reach))

    def least(self, a, lo, hi):
        """Returns <= a @ v for lo <= v <= hi: a mid - |a| rad, lo >= mid - rad, ..."""
        mid = (lo + hi) * self.half
        rad = np.maximum(self.up(hi - mid), self.up(mid - lo))
        spread = self.up(self.bound(abs(a), rad) + self.charge(a, abs(mid), len(mid)))
        return self.down(self.dot(a, mid) - spread)


def _each(function, a):
    return np.asarray(np.frompyfunc(function, 1, 1)(a), object)


def _integers(a):
    """Returns integers p and a scale s with a = p / s."""
    scale = math.lcm(*{value.denominator for value in a.flat})
    return _each(lambda v: v.numerator * (scale // v.denominator), a), scale


class _Network:
    """The network of a file's bytes, as nodes that make the values 1, 2, ...

    value = sum over terms (v, w, |w|) of w @ v, plus offset; or max(v, 0) of one term.
    A ReLU is number `relu` and has the neurons `part`, for an affine node that is -1.
    `direct` says that all v are affine images of the input.
    """

    def __init__(self, raw: bytes, exact: bool) -> None:
        b, (text, head, arrays) = Arithmetic(exact), _unpacked(raw, "network")
        digest = hashlib.sha256(text)
        for name, array in sorted(arrays.items()):
            digest.update(f"{name}|{array.dtype.str}|{array.shape}".encode())
            digest.update(array.tobytes())
        self.sha256 = digest.hexdigest()
        lengths = [_whole(n, 1, _NUMBERS, "input_shape") for n in head["input_shape"]]
        self.sizes, self.neurons = [math.prod(lengths)], 0
        self.nodes: list[Any] = []
        direct, used, most = [True], self.sizes[0], _NUMBERS >> 3 if exact else _NUMBERS
        for k, spec in enumerate(head["nodes"]):
            what, relu = f"network: node {k}", spec.get("op") == "relu"
            need(relu or spec.get("op") == "affine", f"{what}: op {spec.get('op')!r}")
            size = _whole(spec.get("size"), 1, _NUMBERS, f"{what}: size")
            node = SimpleNamespace(size=size, terms=[], relu=-1, direct=True)
            used += size
            for term in [spec] if relu else spec["terms"]:
                v = _whole(term.get("input"), 0, k + 1, f"{what}: input")
                used += 0 if relu else size * self.sizes[v]
                need(used <= most, f"{what}: more than {most} weights")
                w = b.zero if relu else _matrix(term, size, self.sizes[v], arrays)
                w = b.number(w)
                node.terms.append((v, w, abs(w)))
                node.direct &= direct[v]
            need(used <= most, f"{what}: more than {most} numbers")
            if relu:
                need(size == self.sizes[v], f"{what}: its input has another size")
                node.relu = sum(other.relu >= 0 for other in self.nodes)
                node.part = slice(self.neurons, self.neurons + size)
                self.neurons += size
            else:
                offset = np.zeros(size if node.terms else 0)
                if spec["offset"] is not None or not node.terms:
                    offset = take(arrays, spec["offset"], "f4 f8", (size,))
                node.offset = b.number(offset)
            self.nodes.append(node)
            self.sizes.append(size)
            direct.append(node.direct and not relu)


_network = functools.lru_cache(maxsize=4)(_Network)  # by the bytes themselves


def _matrix(term, rows: int, columns: int, arrays):
    """Returns the matrix of a term."""
    matrix, kind = np.zeros((rows, columns)), term.get("kind")
    if kind == "dense":
        return take(arrays, term.get("weight"), "f4 f8", matrix.shape)
    if kind == "index":
        column = take(arrays, term.get("index"), "i4", (rows,))
        need((column >= -1) & (column < columns), "network: index out of range")
        matrix[np.arange(rows), column] = column >= 0
        return matrix
    need(kind == "sparse", f"network: a term of kind {kind!r}")
    start = take(arrays, term.get("start"), "i4", (rows + 1,)).astype(np.int64)
    need((np.diff(start) >= 0) & (start[0] == 0), "network: no row start")
    data = take(arrays, term.get("data"), "f4 f8", (int(start[-1]),))
    column = take(arrays, term.get("column"), "i4", data.shape)
    need((column >= 0) & (column < columns), "network: column out of range")
    places = np.repeat(np.arange(rows), np.diff(start)) * columns + column
    need(len(np.unique(places)) == len(places), "network: an entry occurs twice")
    matrix.flat[places] = data
    return matrix


class Bounds:
    """Bounds of a network over the box [lo, hi].

    `root`: ranges lo <= v <= hi of all values, zlo <= z <= zhi of all ReLU inputs.
    Over the whole box, too, size[v] >= |v| and reach[v][t] >= |w_t| @ size of its v.
    """

    def __init__(self, b: Arithmetic, net: _Network, lo, hi, slopes) -> None:
        self.b, self.net, self.box = b, net, (b.number(lo), b.number(hi))
        self.size: list[Any] = [np.maximum(*map(abs, self.box))]
        need(self.size[0] < _LARGEST, "a value of the box is too large")
        self.reach: list[Any] = [[]]
        self.root: Any = None
        self.root = self.enclose(slopes, np.zeros(net.neurons))
        need(self.root is not None, "the ranges of the whole box are empty")

    def enclose(self, slopes, signs):
        """Returns ranges over the points of the box with these signs; None if empty.

        Input ranges of ReLUs are met with back-substituted bounds if there are slopes
        for them; in a leaf always, unless they are affine images of the input.
        """
        b, root, z = self.b, self.root, self.b.number(np.zeros(self.net.neurons))
        made = SimpleNamespace(lo=[self.box[0]], hi=[self.box[1]], zlo=z, zhi=z.copy())
        for value, node in enumerate(self.net.nodes, 1):
            if node.relu >= 0:
                v = node.terms[0][0]
                lo, hi = made.lo[v], made.hi[v]
                if node.relu in slopes or (root and not node.direct):
                    lo, hi = self.tightened(made, node, slopes.get(node.relu))
                made.lo[v], made.hi[v] = lo, hi = self.cut(lo, hi, signs[node.part])
                if (lo > hi).any():
                    return None
                made.zlo[node.part], made.zhi[node.part] = lo, hi
                lo, hi = np.maximum(lo, b.zero), np.maximum(hi, b.zero)
            elif root and node.direct:
                lo, hi = root.lo[value], root.hi[value]
            else:
                lo = hi = node.offset
                for v, w, _ in node.terms:
                    lo = b.down(lo + b.least(w, made.lo[v], made.hi[v]))
                    hi = b.up(hi - b.least(-w, made.lo[v], made.hi[v]))
                if root:
                    lo = np.fmax(lo, root.lo[value])  # fmax: a NaN says nothing
                    hi = np.fmin(hi, root.hi[value])
            made.lo.append(lo)
            made.hi.append(hi)
            if not root:
                self.size.append(np.maximum(abs(lo), abs(hi)))
                need(self.size[-1] < _LARGEST, "a value of the network is too large")
                terms = node.terms if node.relu < 0 else []
                self.reach.append([b.bound(w, self.size[v]) for v, _, w in terms])
        return made

    def cut(self, lo, hi, signs):
        """Returns the ranges of z with z >= 0 for sign +1 and z <= 0 for sign -1."""
        lo = np.where(signs > 0, np.maximum(lo, self.b.zero), lo)
        return lo, np.where(signs < 0, np.minimum(hi, self.b.zero), hi)

    def tightened(self, made, node, slopes):
        """Returns the ranges of z met, where undecided, with bounds of z_i and -z_i."""
        b, v, line = self.b, node.terms[0][0], None
        lo, hi = made.lo[v].copy(), made.hi[v].copy()
        for rows in self.blocks(np.flatnonzero((lo < 0) & (hi > 0))):
            unit, n = np.eye(node.size)[rows], len(rows)
            a, zeros = b.number(np.r_[unit, -unit]), b.number(np.zeros(2 * n))
            if slopes is not None:
                line = b.number(np.concatenate(slopes[:, rows]) / 128.0)
            bound = self.lower_bounds(v, a, zeros, (made.zlo, made.zhi), line)
            lo[rows] = np.fmax(lo[rows], bound[:n])
            hi[rows] = np.fmin(hi[rows], -bound[n:])
        return lo, hi

    def blocks(self, rows):
        """Returns the rows in parts that fit into memory."""
        block = _BLOCK >> 4 if self.b.exact else _BLOCK
        step = max(1, block // max(self.net.sizes))
        return [rows[i : i + step] for i in range(0, len(rows), step)]

    def lower_bounds(self, value, a, constant, z, slopes=None, betas=None, cuts=None):
        """Returns lower bounds of a @ value + constant wherever z[0] <= z <= z[1].

        Kept true from `value` down to the input: it is >= constant + sum of a_v @ v of
        the values v held. `slopes` (rows, N) of lower lines: by default 1 or 0, as
        z[1] > -z[0]; `betas`: multipliers times signs; `cuts[k]`: for `through_relu`.
        """
        b, held = self.b, {value: a}
        for made in reversed(range(1, value + 1)):
            node, a = self.net.nodes[made - 1], held.pop(made, None)
            if a is None:
                continue
            if node.relu >= 0:
                part, v = node.part, node.terms[0][0]
                line, beta = (x if x is None else x[:, part] for x in (slopes, betas))
                lo, hi = (end[..., part] for end in z)
                through = (cuts or {}).get(node.relu, self.through_relu)
                a, cost = through(a, lo, hi, line, beta, self.size[v])
                passed, costs = [(v, a)], [cost]
            else:
                cost = b.charge(a, abs(node.offset), node.size)
                constant = b.down(constant + b.down(b.dot(a, node.offset) - cost))
                passed = [(v, b.dot(a, w)) for v, w, _ in node.terms]
                costs = [b.charge(a, reach, node.size) for reach in self.reach[made]]
            for v, a in passed:
                if v in held:
                    a = held[v] + a
                    costs.append(b.charge(a, self.size[v]))
                held[v] = a
            for cost in costs:
                constant = b.down(constant - cost)
        return b.down(constant + b.least(held[0], *self.box)) if 0 in held else constant

    def through_relu(self, a, lo, hi, line, beta, size):
        """Returns a' and cost with a @ max(z, 0) >= a' @ z - cost for z in [lo, hi].

        max(z, 0) is z if lo >= 0, and 0 if hi <= 0. Else max(z, 0) >= s z for any s in
        [0, 1], used where a > 0; and max(z, 0) <= s z + t by convexity, if at lo and at
        hi: t >= max(-s lo, hi - s hi), used where a < 0. A beta of the sign of z has
        beta z >= 0, so it may be subtracted. Roundings are charged with size >= |z|.
        """
        b, open_ = self.b, ~((lo >= 0) | (hi <= 0))  # a NaN is undecided, and stays
        left, right = np.where(open_, lo, -b.one), np.where(open_, hi, b.one)
        upper = b.number(np.clip((right / (right - left)).astype(np.float64), 0.0, 1.0))
        height = np.maximum(b.up(-left * upper), b.up(right * b.up(b.one - upper)))
        line = np.where(right > -left, b.one, b.zero) if line is None else line
        slope = np.where(open_, np.where(a > 0, line, upper), b.zero)
        made = a * np.where(lo >= 0, b.one, slope)
        cost = b.charge(made, size)
        if beta is not None:
            made = made - beta
            cost = b.up(cost + b.charge(made, size))
        fall = np.where(open_ & (a < 0), -a * height, b.zero)
        return made, b.up(cost + b.bound(fall, b.number(np.ones(len(size)))))

    def float32_errors(self):
        """Returns e >= |y evaluated in float32 - y| for the logits, over the box.

        Input and weights are rounded first. A node of n summands makes of the error e
        of its inputs |w| e + gamma_n (|w| |v| + |offset|) + n 2^-124, with u = 2^-24.
        """
        b, tiny, u = self.b, self.b.number(2.0**-124), self.b.number(2.0**-24)
        errors = [b.up(b.up(self.size[0] * u) + tiny)]
        need(self.size[0] < 2.0**127, "arithmetic is float32: an input overflows")
        for node in self.net.nodes:
            if node.relu >= 0:
                errors.append(errors[node.terms[0][0]])
                continue
            carried, total = b.number(np.zeros(node.size)), abs(node.offset)
            n = b.number(sum((np.count_nonzero(w, 1) for _, w, _ in node.terms), 2))
            for v, w, absolute in node.terms:
                normal = (w == 0) | (absolute >= 2.0**-126)
                need(normal, "arithmetic is float32: a weight is subnormal")
                need(absolute < 2.0**127, "arithmetic is float32: a weight overflows")
                error = b.up(errors[v] + tiny)  # subnormal values may count as 0
                carried = b.up(carried + b.bound(absolute, error))
                total = b.up(total + b.bound(absolute, b.up(self.size[v] + error)))
            x = n * u  # gamma_n = x / (1 - x) <= x (1 + 2 x)
            need((x < 0.25) & (total < 2.0**127), "arithmetic is float32: overflow")
            local = b.up(total * b.up(x * b.up(2 * x + b.one)))
            errors.append(b.up(b.up(carried + local) + b.up(n * tiny)))
        return errors[-1]


def _excess(a, b, scale: float, rate):
    """Returns the signs of (a - b) - scale rate, exactly.

    Rounding is monotone: it hides the sign only where the rounded sides are equal.
    """
    left, right = a - b, scale * rate
    sign = np.where(left > right, 1, -1)
    for i in np.flatnonzero(left == right):
        exact = Fraction(a[i]) - Fraction(b[i]) - Fraction(scale) * Fraction(rate[i])
        sign[i] = (exact > 0) - (exact < 0)
    return sign


class Certificate:
    """A certificate and its network; the methods reject what they cannot confirm."""

    newest = 1  # version of the format
    required_margin: float
    apothem_lower: float | None
    apothem_upper: float | None

    def __init__(self, path, network: str | None, exact: bool) -> None:
        _, self.head, self.a = _unpacked(_read(path), "certificate", self.newest)
        words = self.head["network"]
        name, sha256 = str(words.get("file")), str(words.get("sha256"))
        good = bool(re.fullmatch(_NAME, name))
        need(good, f"the network file's name is {name[:40]!r}")
        wrong = f"it speaks of another network, {sha256[:16]!r}, not of"
        need(network in (None, sha256), f"{wrong} {str(network)[:16]!r}")
        raw = _read(os.path.join(os.path.dirname(os.fspath(path)), name))
        self.b, self.net = Arithmetic(exact), _network(raw, exact)
        need(self.net.sha256 == sha256, f"{wrong} {self.net.sha256[:16]!r} beside it")
        self.classes = self.net.sizes[-1]
        self.label = _whole(self.head["label"], 0, self.classes, "label")
        reals = {"required_margin": -(2.0**53), "apothem_lower": 0, "apothem_upper": 0}
        for key, least in reals.items():
            value = self.head[key]
            if value is not None or key == "required_margin":
                value = float(_whole(value, least, 2.0**53, key, (int, float)))
            setattr(self, key, value)
        self.arithmetic, self.refine = self.head["arithmetic"], self.head["refine"]
        known = self.arithmetic in ("real", "float32")
        need(known, f"arithmetic is {self.arithmetic!r}")
        need(type(self.refine) is bool, f"refine is {self.refine!r}")

    def check(self) -> dict[str, Any]:
        """Returns what is proved."""
        for part in (self.form, self.box, self.witness, self.cover, self.leaves):
            part()
        found = {k: math.inf if (v := getattr(self, k)) is None else v for k in _CLAIM}
        leaves = len(self.a["leaf_target"])
        return found | {"network_sha256": self.net.sha256, "leaves": leaves}

    def form(self) -> None:
        """Every array has the type, the shape and the range of the format."""
        a, net = self.a, self.net
        shapes: dict[str, Any] = dict.fromkeys(_FEATURES, ("f8", (net.sizes[0],)))
        if self.apothem_upper is not None:
            shapes["witness"] = shapes["x"]
        leaves = (a["leaf_target"].size, net.neurons)
        shapes |= {"leaf_target": ("i4", leaves[:1]), "leaf_signs": ("i1", leaves)}
        shapes |= dict.fromkeys(("leaf_slopes", "leaf_betas"), ("f4", leaves))
        self.slopes = {}
        for node in net.nodes:
            if (name := f"range_slopes_{node.relu}") in a:
                shapes[name] = ("u1", (2, node.size, node.part.start))
                self.slopes[node.relu] = a[name]
                need(a[name] <= 128, f"{name} is above 128")
        for name, (kind, shape) in shapes.items():
            take(a, name, kind, shape)
        strange = sorted(set(a) - set(shapes))
        need(not strange, f"arrays {strange[:3]} do not belong to the format")
        target, signs, slopes = a["leaf_target"], a["leaf_signs"], a["leaf_slopes"]
        other = (target >= 0) & (target < self.classes) & (target != self.label)
        need(other, "leaf_target is no other class")
        need((signs >= -1) & (signs <= 1), "leaf_signs is not -1, 0 or 1")
        need((slopes >= 0) & (slopes <= 1), "leaf_slopes is outside [0, 1]")
        need(a["leaf_betas"] >= 0, "leaf_betas is negative")
        need((a["leaf_betas"] == 0) | (signs != 0), "leaf_betas has no sign")

    def box(self) -> None:
        """domain_lo <= lo <= x <= hi <= domain_hi, and the box contains the ball:

        lo = domain_lo or x - lo >= r rate_lo, and the same for hi.
        """
        a, r = self.a, self.apothem_lower
        for one, two in itertools.pairwise(_FEATURES[:5]):
            need(a[one] <= a[two], f"{one} > {two}")
        for side, high, low in (("lo", a["x"], a["lo"]), ("hi", a["hi"], a["x"])):
            rate, inside = a[f"rate_{side}"], a[side] != a[f"domain_{side}"]
            need(rate >= 0, f"rate_{side} is negative")
            short = rate > 0 if r is None else _excess(high, low, r, rate) < 0
            need(~(inside & short), f"face {side} is nearer than apothem_lower")

    def rows(self, targets, sign: float):
        """Returns the rows sign (y_c - y_j) for the targets j."""
        rows = np.zeros((len(targets), self.classes))
        rows[:, self.label] = sign
        rows[np.arange(len(targets)), targets] = -sign
        margin = np.full(len(rows), -sign * self.required_margin)
        return self.b.number(rows), self.b.number(margin)

    def witness(self) -> None:
        """w is in the domain, x - w <= u rate_lo, w - x <= u rate_hi, and it violates:

        y_j - y_c + m >= 0 for some j, bounded over the box [w, w].
        """
        if self.apothem_upper is None:
            return
        a, w, x, u = self.a, self.a["witness"], self.a["x"], self.apothem_upper
        inside = (a["domain_lo"] <= w) & (w <= a["domain_hi"])
        need(inside, "the witness is outside the domain")
        for high, low, rate in ((x, w, a["rate_lo"]), (w, x, a["rate_hi"])):
            near = _excess(high, low, u, rate) <= 0
            need(near, "the witness is farther than apothem_upper")
        bounds = Bounds(self.b, self.net, w, w, {})
        row, margin = self.rows(np.delete(np.arange(self.classes), self.label), -1.0)
        z = bounds.root.zlo, bounds.root.zhi
        found = bounds.lower_bounds(len(self.net.nodes), row, margin, z)
        need(bool((found >= 0).any()), "the witness does not violate the margin")

    def cover(self) -> None:
        """The leaves of every other class form a binary tree of signs:

        one leaf without signs, or all have a sign at a neuron and each side is a tree.
        """
        signs, target = self.a["leaf_signs"], self.a["leaf_target"]
        plus, minus = (np.packbits(signs == sign, axis=1) for sign in (1, -1))
        masks = [
            (i, *(int.from_bytes(row[i].tobytes(), "big") for row in (plus, minus)))
            for i in range(len(signs))
        ]
        for j in set(range(self.classes)) - {self.label}:
            parts = [[masks[i] for i in np.flatnonzero(target == j)]]
            while parts:
                part = parts.pop()
                need(bool(part), f"the leaves of class {j} leave a part of the box out")
                if len(part) == 1 and part[0][1:] == (0, 0):
                    continue
                either = (p | m for _, p, m in part)
                common, some = functools.reduce(int.__and__, either), part[:4]
                need(common > 0, f"leaves {[i for i, *_ in some]} of class {j} overlap")
                bit = common & -common
                parts.append([(i, p ^ bit, m) for i, p, m in part if p & bit])
                parts.append([(i, p, m ^ bit) for i, p, m in part if m & bit])

    def cuts(self, bounds, rows):
        """Returns the cuts of these leaves, for `lower_bounds`: none in version 1."""

    def leaves(self) -> None:
        """Every leaf has y_c - y_j - m > 0, or more than what float32 errs."""
        b, last, arrays = self.b, len(self.net.nodes), self.a
        target, signs = arrays["leaf_target"], arrays["leaf_signs"]
        slopes, betas = arrays["leaf_slopes"], arrays["leaf_betas"] * signs
        bounds = Bounds(b, self.net, arrays["lo"], arrays["hi"], self.slopes)
        errors = b.number(np.zeros(self.classes))
        if self.arithmetic == "float32":
            errors = bounds.float32_errors()
        groups: dict[bytes, list[int]] = {}
        for i, row in enumerate(signs):
            groups.setdefault(row.tobytes() if self.refine else b"", []).append(i)
        for group in groups.values():
            made = bounds.enclose({}, signs[group[0]]) if self.refine else bounds.root
            for rows in bounds.blocks(np.asarray(group)) if made else []:
                z = bounds.cut(made.zlo, made.zhi, signs[rows])
                empty = (z[0] > z[1]).any(axis=1)  # no point has these signs
                line, beta = b.number(slopes[rows]), b.number(betas[rows])
                a, m = self.rows(target[rows], 1.0)
                cuts = self.cuts(bounds, rows)
                found = bounds.lower_bounds(last, a, m, z, line, beta, cuts)
                least = b.up(errors[self.label] + errors[target[rows]])
                for i in np.flatnonzero(~(empty | (found > least))).tolist():
                    leaf = f"leaf {rows[i]} (class {target[rows[i]]})"
                    low, high = float(found[i]), float(least[i])
                    raise _Rejected(f"{leaf}: bound {low:.3g} is not > {high:.3g}")
