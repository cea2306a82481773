"""The boxes that an audit is about: arrays, pairs of CSV files, or a published log."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

from jaxcert.checks import LARGEST, check_inputs, checked_domain
from jaxcert.errors import InputError
from jaxcert.learning.inputs import load_inputs
from jaxcert.runs.array_files import read_npz
from jaxcert.runs.files import read_text

_FORMS = (
    "boxes come as an .npz file with arrays lo and hi, or as a folder of files "
    "NAME.lo.csv and NAME.hi.csv"
)
_ENDS = (".lo.csv", ".hi.csv")
# Iterations, seconds, faces, min edge, oracle seconds, oracle calls, timed out.
_LOG_NUMBERS, _MIN_EDGE = 7, 3


@dataclasses.dataclass(frozen=True, eq=False)
class Claim:
    """One box, of which somebody says that it holds one class.

    Attributes:
      name: what to call it.
      lo, hi: float64, of the shape of one input.
      x: the input it was made for, or None.
      label: the class it is to hold, or None.
    """

    name: str
    lo: np.ndarray
    hi: np.ndarray
    x: np.ndarray | None = None
    label: int | None = None

    @property
    def is_point(self) -> bool:
        """Whether the box is a single point, that of the input if there is one."""
        same = self.x is None or np.array_equal(self.x, self.lo)
        return same and np.array_equal(self.lo, self.hi)

    @property
    def holds_input(self) -> bool | None:
        """Whether the input lies in the box; None without one."""
        if self.x is None:
            return None
        return bool(np.all((self.lo <= self.x) & (self.x <= self.hi)))

    @property
    def content_hash(self) -> str:
        """What tells this box from another one of the same name."""
        digest = hashlib.sha256(repr((self.lo.shape, self.label)).encode())
        for array in (self.lo, self.hi, self.x):
            digest.update(b"-" if array is None else array.tobytes())
        return digest.hexdigest()[:16]


def read_claims(path: Path, shape: tuple[int, ...]) -> list[Claim]:
    """Returns the boxes of an .npz file, of a folder of CSV pairs, or of one pair.

    A row of an .npz file of which lo and hi are NaN throughout says "no box", as
    certify.py writes it of a misclassified input; it is left out, which is logged.

    Raises:
      InputError: no such file, another form or shape, NaN, or lo > hi; names the box.
    """
    try:
        if path.is_dir() or path.name.endswith(_ENDS):
            claims = list(_from_csv(path, shape))
        elif not path.exists():
            raise InputError(f"no such file or folder: {path}")
        elif path.suffix.lower() == ".npz":
            claims = list(_from_npz(path, shape))
        else:
            raise InputError(f"{path}: {_FORMS}")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    for claim in claims:
        _check(claim)
    return claims


def clipped(claim: Claim, domain: tuple[float, float]) -> Claim:
    """Returns the part of a box that lies in the domain, [lower, upper]^d.

    Raises:
      InputError: there is none.
    """
    lo, hi = np.maximum(claim.lo, domain[0]), np.minimum(claim.hi, domain[1])
    if (lo > hi).any():
        raise InputError(
            f"box {claim.name} lies outside the domain: its values span "
            f"[{claim.lo.min():.6g}, {claim.hi.max():.6g}]. Widen it with "
            "--domain_lower and --domain_upper"
        )
    return dataclasses.replace(claim, lo=lo, hi=hi)


def published_claims(
    log: Path, inputs: Path, shape: tuple[int, ...], domain: tuple[float, float]
) -> list[Claim]:
    """Returns the cubes of a ParallelepipedoNN log, around the inputs it names.

    A line of the log states the min edge e of the box clip([x - r, x + r], domain). The
    edge of a feature at distance a from the nearer end of the domain is min(r, a) +
    min(r, b), b from the other end; so r is the greatest over the features of e / 2
    where e <= 2a, and e - a elsewhere. With one feature at an end, r = e. The faces are
    rounded to float64.

    Raises:
      InputError: a file that cannot be read or holds no result, an input that is
        missing, outside the domain, or named twice, or an edge that no cube has.
    """
    edges = _read_log(log)
    found = load_inputs(inputs, shape)
    for name, reason in found.skipped:
        logging.warning("skipped %s: %s", name, reason)
    rows = {name: row for row, name in enumerate(found.names)}
    missing = [name for name in edges if name not in rows]
    if missing:
        raise InputError(
            f"{log} names {len(missing)} inputs that {inputs} lacks, such as "
            f"{missing[0]}: name the folder of its inputs with --inputs"
        )
    lower, upper = domain
    chosen = found.x[[rows[name] for name in edges]]
    check_inputs(chosen, checked_domain(domain, shape), list(edges))
    claims = []
    for (name, edge), x in zip(edges.items(), chosen, strict=True):
        if not 0 <= edge <= upper - lower:
            raise InputError(
                f"{log}: the min edge of {name} is {edge:g}, the domain spans "
                f"{upper - lower:g}"
            )
        near = np.minimum(x - lower, upper - x)
        radius = np.max(np.where(edge <= 2 * near, edge / 2, edge - near))
        lo, hi = np.maximum(x - radius, lower), np.minimum(x + radius, upper)
        claims.append(Claim(name, lo, hi, x))
    return claims


def _read_log(path: Path) -> dict[str, float]:
    """Returns the min edge by input, in the order of the log."""
    lines = read_text(path, kind="the log of a run").splitlines()
    edges: dict[str, float] = {}
    others = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *columns = line.rsplit(maxsplit=_LOG_NUMBERS)
        try:
            numbers = [float(word) for word in columns]
        except ValueError:
            numbers = []
        if len(numbers) != _LOG_NUMBERS:
            others += 1
            continue
        name = name.rpartition("/")[2]
        if name in edges:
            raise InputError(f"{path}, line {number}: {name} has a result already")
        edges[name] = numbers[_MIN_EDGE]
    if not edges:
        raise InputError(f"{path} holds no line of an input and {_LOG_NUMBERS} numbers")
    if others:
        logging.warning("%s: %d lines are no results; ignored", path, others)
    return edges


def _from_csv(path: Path, shape: tuple[int, ...]) -> Iterator[Claim]:
    whole = path.is_dir()
    folder = path if whole else path.parent
    files = {p.name: p for p in folder.iterdir()}
    if not whole and path.name not in files:
        raise InputError(f"no such file or folder: {path}")
    names = {n.removesuffix(end) for n in files for end in _ENDS if n.endswith(end)}
    if not names:
        raise InputError(f"no NAME.lo.csv in the folder {path}: {_FORMS}")

    def read(file: Path) -> np.ndarray:
        if not file.read_bytes().strip():
            raise InputError(f"{file} is empty")
        return load_inputs(file, shape).x[0]

    for name in sorted(names) if whole else [path.name[: -len(_ENDS[0])]]:
        for end, other in (_ENDS, _ENDS[::-1]):
            if name + end not in files:
                raise InputError(f"{folder} has {name}{other}, but no {name}{end}")
        lo, hi = (read(files[name + end]) for end in _ENDS)
        x = files.get(f"{name}.x.csv")
        yield Claim(name, lo, hi, None if x is None else read(x))


def _from_npz(path: Path, shape: tuple[int, ...]) -> Iterator[Claim]:
    arrays = read_npz(path, "Name an .npz file of boxes")
    for key in ("lo", "hi"):
        if key not in arrays:
            raise InputError(
                f"{path} needs the arrays lo and hi, has: {', '.join(arrays) or 'none'}"
            )
    values = {
        key: _arranged(path, key, arrays[key], shape)
        for key in ("lo", "hi", "x")
        if key in arrays
    }
    count = len(values["lo"])
    if not count:
        raise InputError(f"{path} holds no boxes")
    values.setdefault("x", np.full((count, *shape), np.nan))
    names = arrays.get("input", np.arange(count).astype(str))
    labels = arrays.get("label", np.full(count, -1))
    for key, array, kinds in (("input", names, "U"), ("label", labels, "iu")):
        if array.shape != (count,) or array.dtype.kind not in kinds:
            what = "strings" if kinds == "U" else "integers"
            raise InputError(
                f"{path}: {key} must be {count} {what}, got {array.dtype} of shape "
                f"{array.shape}"
            )
    for key, array in values.items():
        if len(array) != count:
            raise InputError(f"{path}: {count} rows in lo, but {len(array)} in {key}")
    if len(set(names.tolist())) != count:
        raise InputError(f"{path}: names in input must differ from one another")
    absent = 0
    for row, (name, label) in enumerate(zip(names.tolist(), labels, strict=True)):
        lo, hi, x = (values[key][row] for key in ("lo", "hi", "x"))
        if np.isnan(lo).all() and np.isnan(hi).all():
            absent += 1
            continue
        yield Claim(
            name, lo, hi, None if np.isnan(x).all() else x,
            None if label == -1 else int(label),
        )  # fmt: skip
    if absent == count:
        raise InputError(f"{path} holds no boxes: all of lo and hi is NaN")
    if absent:
        logging.warning("%d of %d rows are NaN (no box); left out", absent, count)


def _arranged(
    path: Path, key: str, array: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns an array of boxes as float64, shape (n, *shape)."""
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: {key} must be real numbers, not {array.dtype}")
    given, wanted = ([k for k in s if k != 1] for s in (array.shape[1:], shape))
    flat = min(len(given), len(wanted)) <= 1
    fits = given == wanted or (flat and math.prod(given) == math.prod(wanted))
    if array.ndim < 2 or not fits:
        raise InputError(
            f"{path}: {key} has shape {array.shape}, the network takes inputs of shape "
            f"{shape}: the array must have n of them in its first axis"
        )
    return array.astype(np.float64).reshape(-1, *shape)


def _check(claim: Claim) -> None:
    for key in ("lo", "hi", "x"):
        array = getattr(claim, key)
        if array is not None and not np.all(np.abs(array) <= LARGEST):
            raise InputError(
                f"box {claim.name}: {key} holds NaN, infinity or values beyond "
                f"{LARGEST:g}; give finite faces"
            )
    wrong = claim.lo > claim.hi
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InputError(
            f"box {claim.name} is empty: lo > hi for {int(wrong.sum())} of "
            f"{wrong.size} features, first for feature {at} "
            f"({claim.lo.flat[at]:g} > {claim.hi.flat[at]:g})"
        )
