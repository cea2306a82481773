"""Tables with physical units: the data, what is legal, and how fast features move."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import math
from pathlib import Path

import numpy as np

from jaxcert.box import Box, Rates
from jaxcert.commands.console import expand
from jaxcert.errors import InputError
from jaxcert.runs.files import read

TABLES = ("breast_cancer", "wine")
CLASS_COLUMNS = ("class", "label", "target")
LEAST_ROWS = 8
NOT_STATED, NO_UNIT = None, ""
COLUMNS = ("feature", "unit", "lower", "upper", "rate")
_TEST_SHARE = 0.25

# Neither data set's documentation names units. What follows from the definitions of the
# features is stated here; all else is not known, and is printed as such.
_UNITS = {
    "alcohol": "% vol",
    "hue": NO_UNIT,
    "od280/od315 of diluted wines": NO_UNIT,
}
_RATIOS = ("compactness", "concave points", "fractal dimension")


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A labelled table, in its published order.

    Attributes:
      name: of the data set.
      x: float64, (n, d).
      labels: int32, (n,).
      features: names, d.
      units: one per feature, "" for a number without unit, None if it is not stated.
      classes: names.
    """

    name: str
    x: np.ndarray
    labels: np.ndarray
    features: tuple[str, ...]
    units: tuple[str | None, ...]
    classes: tuple[str, ...]

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows to train on and those to certify, a quarter, shuffled."""
        order = np.random.default_rng(seed).permutation(len(self.x))
        count = round(_TEST_SHARE * len(order))
        return order[count:], order[:count]


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """What is legal and how fast features move, numpy float64 of shape (d,).

    Attributes:
      domain: legal values.
      rates: units that a feature moves by while others move by theirs.
      units: as in Table.
      observed: whether the domain is nothing but the range of the data.
      deviations: whether the rates are the standard deviations.
    """

    domain: Box
    rates: Rates
    units: tuple[str | None, ...]
    observed: bool
    deviations: bool


def load_table(name: str, use: str = "") -> Table:
    """Returns a table that comes with scikit-learn or lies in a file, or a part of it.

    Args:
      name: one of `TABLES`, or the path of a CSV file: a line of names, then rows of
        numbers and a class. The class is in the column of one of the names
        `CLASS_COLUMNS`, or in the last one.
      use: names of features, with commas; '' for all.

    Raises:
      InputError: no such table or feature, or a file that is no such table.
    """
    if name not in TABLES:
        if not name.lower().endswith(".csv"):
            raise InputError(
                f"unknown data {name!r}; choose one of {', '.join(TABLES)}, or name a "
                "file that ends in .csv"
            )
        table = _own_table(name)
    else:
        table = _published(name)
    x, features, units = table.x, table.features, table.units
    chosen = [_place(word.strip(), features) for word in use.split(",") if word.strip()]
    if chosen:
        if len(set(chosen)) < len(chosen):
            raise InputError(f"use is {use!r}: a feature stands twice")
        x, features = x[:, chosen], tuple(features[i] for i in chosen)
        units = tuple(units[i] for i in chosen)
    return dataclasses.replace(table, x=x, features=features, units=units)


def _published(name: str) -> Table:
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    features = tuple(str(f).replace("_", " ") for f in data.feature_names)
    x, labels = np.asarray(data.data, np.float64), np.asarray(data.target, np.int32)
    classes = tuple(str(c).replace("_", " ") for c in data.target_names)
    units = tuple(_unit(f) for f in features)
    return Table(name, x, labels, features, units, classes)


def _own_table(path: str) -> Table:
    """Returns the table of a CSV file; classes in the order of their names."""
    names, rows = _lines(path)
    label = next((n for n in CLASS_COLUMNS if n in names), names[-1] if names else "")
    features = tuple(name for name in names if name != label)
    if len(set(names)) < len(names) or not features:
        raise InputError(
            f"{path}: the first line must name at least two columns, each once, the "
            f"class among them; it is {','.join(names)!r}"
        )
    numbers, words = [], []
    for line, row in rows:
        where = f"{path}, line {line}"
        if None in row.values() or None in row:
            raise InputError(f"{where} has not {len(names)} cells, as the first line")
        words.append(row[label].strip())
        numbers.append([_number(row[f].strip(), f"{where}: {f}") for f in features])
    classes = sorted(set(words))
    if all(word.isdecimal() for word in classes):
        classes.sort(key=int)
    if len(classes) < 2 or len(words) < LEAST_ROWS:
        raise InputError(
            f"{path} has {len(words)} rows of {len(classes)} classes (column {label!r})"
            f"; a table needs at least {LEAST_ROWS} rows and 2 classes"
        )
    labels = np.array([classes.index(word) for word in words], np.int32)
    digest = hashlib.sha256(read(expand(path))).hexdigest()
    # Other contents are another table, whose run is not continued.
    name, x = f"{Path(path).name} {digest[:8]}", np.array(numbers, np.float64)
    return Table(
        name, x, labels, features,
        (NOT_STATED,) * len(features), tuple(classes),
    )  # fmt: skip


def _place(word: str, features: tuple[str, ...]) -> int:
    if word not in features:
        raise InputError(
            f"there is no feature {word!r}; the features are {', '.join(features)}"
        )
    return features.index(word)


def _unit(feature: str) -> str | None:
    if any(ratio in feature for ratio in _RATIOS):
        return NO_UNIT
    return _UNITS.get(feature, NOT_STATED)


def load_scale(table: Table, training: np.ndarray, path: str) -> Scale:
    """Returns the range and the standard deviations of a table, or what a file says.

    Args:
      table: the data.
      training: rows of which the deviations are taken.
      path: a CSV file whose columns are `COLUMNS`, any of them but `feature` left out,
        any cell and any feature as well; '' for none.

    Raises:
      InputError: the file cannot be read, or says what cannot be.
    """
    lower, upper = table.x.min(axis=0), table.x.max(axis=0)
    rate, units = table.x[training].std(axis=0), list(table.units)
    given: set[str] = set()
    for line, row in _rows(path) if path else ():
        where = f"{path}, line {line}"
        feature = (row.get("feature") or "").strip()
        if feature not in table.features:
            raise InputError(
                f"{where}: there is no feature {feature!r}; the features are "
                f"{', '.join(table.features)}"
            )
        i = table.features.index(feature)
        for key, values in (("lower", lower), ("upper", upper), ("rate", rate)):
            if text := (row.get(key) or "").strip():
                values[i] = _number(text, f"{where}: {key}")
                given.add(key)
        if row.get("unit") is not None:
            units[i] = str(row["unit"]).strip()
    for i, feature in enumerate(table.features):
        if not lower[i] < upper[i]:
            raise InputError(
                f"{feature}: lower {lower[i]:g} is not below upper {upper[i]:g}"
            )
        if not rate[i] >= 0:
            raise InputError(f"{feature}: rate {rate[i]:g} is negative")
    domain: Box = Box(lower, upper)  # type: ignore[arg-type]
    rates: Rates = Rates(rate, rate.copy())  # type: ignore[arg-type]
    return Scale(
        domain, rates, tuple(units), not given & {"lower", "upper"}, "rate" not in given
    )


def _lines(path: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Returns the names in the first line of a CSV file, and the rows with numbers."""
    try:
        text = read(expand(path)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8") from error
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    names = [str(name).strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    return names, [(reader.line_num, row) for row in reader]


def _rows(path: str) -> list[tuple[int, dict[str, str]]]:
    names, rows = _lines(path)
    strange = [name for name in names if name not in COLUMNS]
    if "feature" not in names or strange:
        raise InputError(
            f"{path}: the first line must name columns out of {', '.join(COLUMNS)}, "
            f"and feature; it is {','.join(names)!r}"
        )
    return rows


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where} is {text!r}; give a finite number")
    return value
