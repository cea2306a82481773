"""Trains and certifies networks over grids or random draws of hyperparameters.

    python experiments/sweep.py --output=out/sweep \\
        --grid="train_eps=0,0.05,0.1;lr=1e-3,3e-4;width=64,128;epochs=10"
    python experiments/sweep.py --output=out/random --random=40 \\
        --grid="lr=1e-4..1e-2:log;train_eps=0..0.2;width=64,128"

All are certified at one radius, --epsilon, or their shares could not be compared.
Settings of one shape train and are certified in one program, --population at a time;
other shapes (width, depth, method, epochs, batch_size ...) are programs of their own.
Every setting is one line of sweep.jsonl as soon as it is known; --resume continues
after a kill and redoes nothing that is known. Ends with a table, heat_map.png and
front.png; the networks lie in networks/.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from jaxcert.commands.console import expand
from jaxcert.commands.sweep.report import table, varying, write_front, write_heat_map
from jaxcert.commands.sweep.run import Row, Sweep, check_row
from jaxcert.commands.sweep.settings import Setting, grouped, settings
from jaxcert.errors import InputError
from jaxcert.learning.data import DATASETS, Dataset, load_dataset
from jaxcert.runs.journal import Journal, rows

_GRID = flags.DEFINE_string(
    "grid", None, "NAME=VALUES;NAME=VALUES of the hyperparameters.", required=True
)
_RANDOM = flags.DEFINE_integer("random", 0, "Settings to draw; 0: all.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the draws.")
_POPULATION = flags.DEFINE_integer(
    "population", 8, "Most networks in one program.", lower_bound=1
)
_DATASET = flags.DEFINE_enum("dataset", "fashion_mnist", DATASETS, "Data set.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data set lies.")
_LIMIT = flags.DEFINE_integer(
    "limit", None, "Use only the first so many images of each split.", lower_bound=1
)
_EPSILON = flags.DEFINE_float(
    "epsilon",
    0.1,
    "Radius at which every network is attacked and certified, however it was trained.",
    lower_bound=0.0,
)
_AXES = flags.DEFINE_list("axes", [], "The two hyperparameters of the heat map.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)
_RESUME = flags.DEFINE_boolean("resume", False, "Continue the sweep in --output.")


def main(argv: Sequence[str]) -> int:
    del argv
    wanted = settings(_GRID.value, _RANDOM.value, _SEED.value)
    axes = _axes(_AXES.value)
    train, test = (
        _first(load_dataset(_DATASET.value, split, _DATA_DIR.value), _LIMIT.value)
        for split in ("train", "test")
    )
    for setting in wanted:
        setting.architecture(train)  # raises where an image is used up
    folder = expand(_OUTPUT.value)
    radius = _EPSILON.value
    config = {"dataset": _DATASET.value, "limit": _LIMIT.value, "epsilon": radius}
    check = functools.partial(check_row, radius=radius, images=len(test.labels))
    journal = Journal(rows("sweep"), folder, _RESUME.value, config, check)
    known = {row["id"] for row in journal.records}
    missing = [setting for setting in wanted if setting.id not in known]
    groups, left = grouped(missing, _POPULATION.value), len(missing)
    logging.info("%d of %d settings, in %d programs", left, len(wanted), len(groups))
    sweep = Sweep(train, test, folder, logging.info, radius)
    begin, done = time.monotonic(), 0
    for group in groups:
        journal.append(*sweep.run(group))
        sweep.forget()
        done += len(group)
        spent = time.monotonic() - begin
        rest = spent / done * (left - done)
        logging.info("%d of %d settings, about %.0f s to go", done, left, rest)
    _finish(folder, journal.records, wanted, axes)
    return 0


def _finish(
    folder: Path, known: list[Row], wanted: list[Setting], axes: tuple[str, ...]
) -> None:
    ids = {setting.id for setting in wanted}
    found = [row for row in known if row["id"] in ids]
    text = table(found)
    (folder / "table.txt").write_text(text + "\n")
    print(text)
    written = ["sweep.jsonl", "table.txt"]
    if any(row["certified"] is not None for row in found):
        write_front(found, folder / "front")
        written.append("front.png")
        chosen = axes or tuple(varying(found)[:2])
        if len(chosen) == 2:
            write_heat_map(found, (chosen[0], chosen[1]), folder / "heat_map")
            written.append("heat_map.png")
    print(f"\nwrote {', '.join(written)} in {folder}")


def _axes(words: Sequence[str]) -> tuple[str, ...]:
    names = [field.name for field in dataclasses.fields(Setting)]
    unknown = [word for word in words if word not in names]
    if unknown or len(words) not in (0, 2):
        raise InputError(f"--axes takes two of {', '.join(names)}")
    return tuple(words)


def _first(dataset: Dataset, limit: int | None) -> Dataset:
    return dataclasses.replace(
        dataset, images=dataset.images[:limit], labels=dataset.labels[:limit]
    )
