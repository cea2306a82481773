"""The HTML report of a run, with its pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert.errors import InputError
from jaxcert.report import charts, pictures
from jaxcert.report.charts import Picture
from jaxcert.report.pictures import Example, Scale
from jaxcert.report.regions import Regions, plane
from jaxcert.report.stored import STATUSES, Record, Run, read_run
from jaxcert.report.summary import (
    OBJECTIVE,
    finite,
    format_number,
    format_percent,
    mean,
    median,
    norm_of_objective,
    sentence,
    summarise,
)
from jaxcert.report.table import by_class
from jaxcert.runs.files import file_stem, write_atomically

PROOFS = "proofs"
CLASS_HEADS = (
    "class", "inputs", "certified", "misclassified", "unknown", "mean lower",
    "median lower", "mean upper",
)  # fmt: skip
_MOST_STRIPS = 12
_MOST_OTHERS = 2
_NAMES = {
    "model": "model",
    "model_hash": "model content hash",
    "dataset": "data set",
}
_TILES = {
    "image": "image",
    "lower": "lower face",
    "upper": "upper face",
    "slack-down": "slack downwards",
    "slack-up": "slack upwards",
    "counterexample": "counter\u00adexample",
    "change": "its change",
    "grown-lower": "grown: lower face",
    "grown-upper": "grown: upper face",
    "grown-edges": "grown: edge lengths",
}


@dataclasses.dataclass(frozen=True)
class Tile:
    """One picture of a strip; its name is one of those of `pictures.tiles`."""

    name: str
    uri: str
    alt: str
    caption: str
    scale: Scale | None


@dataclasses.dataclass(frozen=True)
class Strip:
    """One input of the gallery: tiles of an image, bars of a vector, or a plane."""

    record: Record
    caption: str
    tiles: tuple[Tile, ...] = ()
    bars: Picture | None = None
    plane: Picture | None = None
    hidden: str = ""


def write_report(output_dir: str | os.PathLike[str]) -> Path:
    """Returns the path of the report, written from the run's files in `output_dir`.

    Raises:
      InputError: there is no run, a file of it is damaged, or the directory cannot be
        written.
    """
    directory = Path(output_dir)
    run = read_run(directory)
    certificates = certificates_of(run, directory)
    regions = Regions.read(directory)
    return write_page(run, directory / "report.html", certificates, regions)


def certificates_of(run: Run, directory: Path) -> dict[str, str]:
    """Returns the names of the certificates in a run's folder, by certified input."""
    folder = directory / PROOFS
    return {
        record["input"]: path.name
        for record in run.records
        if record["status"] == "certified"
        and (path := folder / f"{file_stem(record['input'])}.npz").is_file()
    }


def write_page(
    run: Run,
    target: Path,
    certificates: Mapping[str, str] | None = None,
    regions: Regions | None = None,
) -> Path:
    """Writes the page of a run into one file that needs no other; returns its path.

    Pictures lie in it as data, and nothing is loaded from elsewhere, so that it can be
    mailed. A script of its own sorts and searches its tables.

    Args:
      run: what it reports on.
      target: the file.
      certificates: names of the files that the checker accepted, by input.
      regions: of a network of two features, where they are known.

    Raises:
      InputError: it cannot be written.
    """
    summary = summarise(run.records, radius=_radius(run.about))
    unit = pictures.units(run.config, run.x.shape[1:])
    strips = [_strip(run, row, regions) for row in choose(run.records)]
    certificates = certificates or {}
    drawn: dict[str, Picture | None] = {"accuracy": None, "histogram": None}
    if run.records:
        records = run.records
        drawn["accuracy"] = charts.in_both(
            lambda scheme: charts.accuracy(records, unit, scheme)
        )
    if summary["correct"]:
        drawn["histogram"] = charts.in_both(
            lambda scheme: charts.histogram(records, unit, scheme)
        )
    page = render(
        "certify.html",
        title=_title(run.config),
        sentence=sentence(summary, _tolerance(run.config)),
        claim=claim(run),
        proofs=proofs(run, certificates),
        rates=run.config.get("rates_are"),
        objective=run.config.get("objective", OBJECTIVE),
        complete=run.about.get("complete", False),
        notices=run.notices,
        scope=None if run.scope is None else run.scope.words,
        summary=summary,
        facts=_facts(run),
        strips=strips,
        others=_others(strips),
        images=pictures.image_shape(run.x.shape[1:]) is not None,
        grown=any(r.get("grown") for r in run.records),
        edges=pictures.one_unit(run.config, run.x.shape[1:]),
        records=run.records,
        certificates=certificates,
        class_heads=CLASS_HEADS,
        class_rows=_class_rows(run),
        share=lambda value, way: format_percent(
            round(value * summary["n"]), summary["n"], way
        ),
        **drawn,
    )
    return write_html(target, page)


def render(template: str, **values: Any) -> str:
    """Returns a page of the folder `templates`, all texts escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxcert.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {
        "down": lambda value: format_number(value, "down"),
        "up": lambda value: format_number(value, "up"),
        "near": format_number,
        "text": lambda value: "-" if value is None else value,
    }
    return environment.get_template(template).render(**values)


def write_html(target: Path, page: str) -> Path:
    """Writes a page, whole or not at all, and returns its path.

    Raises:
      InputError: it cannot be written.
    """
    try:
        # A file name may hold bytes that no encoding explains.
        write_atomically(target, page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise InputError(
            f"cannot write the report {target}: {error.strerror}"
        ) from error
    return target


def claim(run: Run) -> str:
    """Returns what is claimed of the certified inputs of a run, in one sentence."""
    margins = sorted({value_text(r["required_margin"]) for r in run.records}) or ["0"]
    unit = pictures.units(run.config, run.x.shape[1:])
    norm = norm_of_objective(run.config.get("objective", OBJECTIVE))
    near = "in which no feature is farther from the input's"
    if norm != "linf":
        near = f"whose {norm} distance from the input is no greater"
    count = sum(r["status"] == "certified" for r in run.records)
    network = "as a function of real numbers, with its weights as stored"
    if any(r["arithmetic"] == "float32" for r in run.records):
        network = "in every float32 evaluation of it, with its weights as stored"
    if "model_hash" in run.config:
        network += f" (content hash {str(run.config['model_hash'])[:16]})"
    return (
        f"Claim: of each of the {count} inputs called certified, the network, "
        f"{network}, gives the class of the input, by a margin > "
        f"{', '.join(margins)}, at every point of the domain {near} than the lower end "
        f"of its bracket ({unit})."
    )


def checked(run: Run, certificates: Mapping[str, str]) -> str:
    """Returns how many certified inputs the independent program has checked.

    Args:
      run: the run.
      certificates: what `certificates_of` returned of it.
    """
    certified = sum(r["status"] == "certified" for r in run.records)
    return f"Checked by the independent program: {len(certificates)} of {certified}."


def proofs(run: Run, certificates: Mapping[str, str]) -> str:
    """Returns how many answers were checked, and where the proofs are.

    Args:
      run: the run.
      certificates: what `certificates_of` returned of it.
    """
    certified = sum(r["status"] == "certified" for r in run.records)
    if not certified:
        return ""
    grown = [r["grown"]["proof"] for r in run.records if r.get("grown")]
    if not certificates and any(proof is not None for proof in grown):
        return (
            f"{sum(proof is not None for proof in grown)} grown boxes have a "
            "certificate in the folder grown, which the independent checker accepted "
            "when it was written, and does again with: jaxcert check, followed by that "
            f"folder. {sum(proof is True for proof in grown)} of these hold the proof "
            "of the box, the others that of its faces alone."
        )
    if not certificates:
        how = "Ask with record=True and call jaxcert.write_certificates"
        if run.about.get("command"):
            how = "Run again with --proofs"
        return (
            f"{checked(run, certificates)} No certificate files were written: the "
            "claim rests on the search, which proved each box in float64 with a margin "
            f"for rounding. {how} for files that the independent checker accepts or "
            "rejects."
        )
    text = (
        f"{checked(run, certificates)} Their certificates are in the folder {PROOFS}; "
        "it accepted each when it was written, and does so again with: jaxcert check, "
        "followed by that folder."
    )
    if len(certificates) < certified:
        text += " Of the others the claim rests on the search alone."
    if any(r["required_margin"] < 0 for r in run.records):
        text += " It calls them vacuous: with a margin below 0 another class may win."
    return text


def _radius(about: Mapping[str, Any]) -> float | None:
    """Returns the radius that the run was asked to speak of, if any."""
    flags = about.get("flags")
    radius: Any = flags.get("radius") if isinstance(flags, Mapping) else None
    if not isinstance(radius, int | float) or isinstance(radius, bool):
        return None
    return float(radius) if 0 <= radius < math.inf else None


def choose(records: Sequence[Mapping[str, Any]], most: int = _MOST_STRIPS) -> list[int]:
    """Returns the rows of the gallery: certified ones, then unknown, misclassified.

    The certified ones are spread evenly over the ranks of their apothems, smallest
    first. Up to two unknown and two misclassified ones are kept a place, more where
    places are left.
    """
    rows: dict[str, list[int]] = {"certified": [], "unknown": [], "misclassified": []}
    for row, record in enumerate(records):
        rows[record["status"]].append(row)
    rows["certified"].sort(key=lambda row: records[row]["apothem_lower"])
    room = most - sum(
        min(len(rows[status]), _MOST_OTHERS) for status in ("unknown", "misclassified")
    )
    certified = rows["certified"]
    if len(certified) > room:
        places = np.linspace(0, len(certified) - 1, room).round().astype(int)
        certified = [certified[place] for place in places]
    left = most - len(certified)
    wrong = min(
        len(rows["misclassified"]), max(_MOST_OTHERS, left - len(rows["unknown"]))
    )
    unknown = rows["unknown"][: left - wrong]
    return [*certified, *unknown, *rows["misclassified"][: left - len(unknown)]]


def _strip(run: Run, row: int, regions: Regions | None) -> Strip:
    """Returns one strip, with its pictures."""
    record = run.records[row]
    shape = run.x.shape[1:]
    domain_lo, domain_hi = pictures.domain_of(run.config, shape)
    # False for NaN, and for a box that is the input alone: nothing to look at.
    boxed = bool(np.any(run.hi[row] > run.lo[row]))
    witnessed = not np.isnan(run.witness[row]).any()
    grown = (run.grown_lo[row].astype(float), run.grown_hi[row].astype(float))
    example = Example(
        x=run.x[row].astype(float),
        box=(run.lo[row].astype(float), run.hi[row].astype(float)) if boxed else None,
        witness=run.witness[row].astype(float) if witnessed else None,
        domain_lo=domain_lo,
        domain_hi=domain_hi,
        grown=None if np.isnan(grown[0]).any() else grown,
    )
    caption = _caption(run, row, example)
    if pictures.image_shape(shape) is None:
        names = run.config.get("feature_names")
        bars, shown = pictures.bars(example, names)
        drawn = None
        if regions is not None and example.x.size == 2:
            drawn = plane(regions, example, record["predicted"], names)
        hidden = ""
        if shown < example.x.size:
            rule = "with the least slack" if boxed else "shown"
            hidden = f"The {shown} of {example.x.size} features {rule}."
        return Strip(record, caption, bars=bars, plane=drawn, hidden=hidden)
    tiles = []
    for name, tile in pictures.tiles(example).items():
        text = _TILES[name]
        if name == "counterexample" and run.witness_class[row] >= 0:
            predicted = _class_name(run.config, int(run.witness_class[row]))
            text = f"{text}: predicted {predicted}"
        alt = f"{_TILES[name]} of input {record['input']}"
        tiles.append(Tile(name, tile.uri, alt, text, tile.scale))
    return Strip(record, caption, tiles=tuple(tiles))


def _caption(run: Run, row: int, example: Example) -> str:
    """Returns what is known of one input, in words."""
    record = run.records[row]
    predicted = _class_name(run.config, record["predicted"])
    if record["status"] == "misclassified":
        label = _class_name(run.config, record["label"])
        return f"Label {label}, predicted {predicted}. Apothem 0, no box."
    lower = format_number(record["apothem_lower"], "down")
    upper = format_number(record["apothem_upper"], "up")
    parts = [f"Class {predicted}. Apothem bracket [{lower}, {upper}]"]
    if record["status"] == "unknown":
        parts.append("Nothing is proved of what lies between the ends")
    if example.witness is None:
        parts.append("No counterexample found")
    else:
        other = ""
        if run.witness_class[row] >= 0:
            other = f" of class {_class_name(run.config, int(run.witness_class[row]))}"
        text = f"Nearest counterexample{other}"
        if "rates" not in run.config:  # with rates, a feature's distance is no number
            distance = float(np.abs(example.witness - example.x).max())
            text += f": its features move by up to {format_number(distance, 'up')}"
        parts.append(text)
    if record.get("grown"):
        edges = pictures.one_unit(run.config, run.x.shape[1:])
        parts.append(_grown_caption(record, edges))
    return ". ".join(parts) + "."


def _grown_caption(record: Mapping[str, Any], edges: bool) -> str:
    """Returns what is known of the box that an input's box grew to.

    Args:
      record: of the input.
      edges: whether a mean of edges says something.
    """
    grown, means = record["grown"], ""
    if edges:
        means = (
            f"mean edge {format_number(grown['mean_edge'], 'down')} instead of "
            f"{format_number(record['mean_edge'], 'down')}, "
        )
    text = (
        f"Grown ({grown['objective'].replace('_', ' ')}): {means}"
        f"{grown['faces_on_domain']} faces on the domain's boundary, "
        f"{grown['faces_stopped']} stopped by a counterexample at most "
        f"{grown['delta']:g} beyond, {grown['faces_open']} open"
    )
    if grown["proof"] is not None:
        own = "the box and its faces" if grown["proof"] else "its faces alone"
        text += f"; certificate of {own}"
    return text


def _class_name(config: Mapping[str, Any], index: Any) -> str:
    """Returns a class as its number, with its name where the config has one."""
    if index is None:
        return "not known"
    names = config.get("class_names") or ()
    if isinstance(index, int) and 0 <= index < len(names):
        name = str(names[index])
        return name if name == str(index) else f"{index} ({name})"
    return str(index)


def _class_rows(run: Run) -> list[tuple[str, ...]]:
    """Returns the table of the classes."""
    rows = by_class(run.records)
    return [
        (
            _class_name(run.config, key), str(len(group)),
            *(str(sum(r["status"] == s for r in group)) for s in STATUSES),
            *_three(group),
        )
        for key, group in rows
    ]  # fmt: skip


def _three(group: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Returns mean and median lower end, and the mean of the finite upper ends."""
    correct = [r for r in group if r["status"] != "misclassified"]
    lower = [float(r["apothem_lower"]) for r in correct]
    upper = finite(r["apothem_upper"] for r in correct)
    return (
        format_number(mean(lower), "down"),
        format_number(median(lower), "down"),
        format_number(mean(upper), "up"),
    )


def _title(config: Mapping[str, Any]) -> str:
    """Returns the report's title: which model, on which data."""
    title = f"Robustness certificates: {config.get('model', 'network')}"
    if config.get("dataset"):
        title += f" on {config['dataset']}"
    return title


def _others(strips: Sequence[Strip]) -> str:
    """Returns which inputs follow the certified ones in the gallery."""
    present = {strip.record["status"] for strip in strips}
    if "certified" not in present:
        return ""
    return " and ".join(s for s in ("unknown", "misclassified") if s in present)


def _tolerance(config: Mapping[str, Any]) -> float | None:
    value = config.get("tolerance")
    return value if isinstance(value, int | float) else None


def _facts(run: Run) -> list[tuple[str, str]]:
    """Returns what was certified, how, when and on what, as names and values."""
    config = dict(run.config)
    for key in ("class_names", "feature_names"):
        config.pop(key, None)
    facts = [(_NAMES[key], str(config.pop(key))) for key in _NAMES if key in config]
    for key in ("objective", "oracle", "arithmetic", "required_margin"):
        config.pop(key, None)
        values = sorted({value_text(r[key]) for r in run.records})
        if values:
            facts.append((key.replace("_", " "), ", ".join(values)))
    lower, upper = config.pop("domain_lower", None), config.pop("domain_upper", None)
    lower = "0" if lower is None else value_text(lower)
    upper = "1" if upper is None else value_text(upper)
    if "," in lower + upper:
        facts += [("domain, lower ends", lower), ("domain, upper ends", upper)]
    else:
        facts.append(("domain, per feature", f"[{lower}, {upper}]"))
    facts += [
        (key.replace("_", " "), value_text(value)) for key, value in config.items()
    ]
    facts += data_fact(run.x).items()
    about = run.about
    if about.get("command"):
        facts.append(("command", str(about["command"])))
    if "versions" in about:
        versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
        date = str(about.get("date", "-"))
        facts += [
            ("date", date.replace("T", " ").replace("+00:00", " UTC")),
            ("device", str(about.get("device", "-"))),
            ("wall time", f"{about.get('wall_seconds', 0.0):.1f} s"),
            ("versions", versions),
        ]
    return facts


def data_fact(x: np.ndarray) -> dict[str, str]:
    """Returns what tells inputs from others, as a fact of a page."""
    if not len(x):
        return {}
    digest = hashlib.sha256(np.ascontiguousarray(x, "<f8").tobytes())
    return {"inputs, SHA-256 of their float64 values": digest.hexdigest()}


def value_text(value: Any) -> str:
    """Returns a setting in few characters."""
    if isinstance(value, list | tuple):
        flat = np.asarray(value, dtype=object).ravel()
        if len(flat) > 8 and all(isinstance(v, int | float) for v in flat):
            return f"{min(flat):g} .. {max(flat):g} ({len(flat)} values)"
        return ", ".join(value_text(v) for v in flat)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
