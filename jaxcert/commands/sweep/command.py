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
import math
import time
from pathlib import Path

from absl import logging

from jaxcert.commands.console import expand
from jaxcert.commands.options import (
    DATASET,
    REQUIRED,
    Options,
    data_dir,
    folder,
    option,
    seed,
)
from jaxcert.commands.sweep.page import write_page
from jaxcert.commands.sweep.report import (
    front_chart,
    heat_map,
    table,
    varying,
    write_both,
)
from jaxcert.commands.sweep.run import Row, Sweep, check_row
from jaxcert.commands.sweep.settings import Setting, grouped, settings
from jaxcert.errors import InputError
from jaxcert.learning.data import Dataset, training_data
from jaxcert.report.answers import data_fact
from jaxcert.runs.journal import Journal, rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Options):
    """The options of `jaxcert sweep`."""

    grid: str = option(REQUIRED, "NAME=VALUES;NAME=VALUES of the hyperparameters.")
    random: int = option(0, "Settings to draw; 0: all.", least=0)
    seed: int = seed("the draws")
    population: int = option(8, "Most networks in one program.", least=1)
    dataset: str = option("fashion_mnist", DATASET)
    data_dir: str | None = data_dir()
    limit: int | None = option(
        None, "Use only the first so many images of each split.", least=1
    )
    epsilon: float = option(
        0.1,
        "Radius at which every network is attacked and certified, however it was "
        "trained.",
        least=0,
        below=math.inf,
    )
    axes: tuple[str, ...] = option((), "The two hyperparameters of the heat map.")
    output: str = folder(REQUIRED)
    resume: bool = option(False, "Continue the sweep in --output.")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [field.name for field in dataclasses.fields(Setting)]
        if len(self.axes) not in (0, 2) or not set(self.axes) <= set(names):
            raise InputError(f"--axes takes two of {', '.join(names)}")

    def data(self, split: str) -> Dataset:
        """Returns a part of the data set."""
        return training_data(self.dataset, split, self.data_dir).first(self.limit)


def main(request: Request) -> int:
    """Runs the command; returns its exit code."""
    wanted = settings(request.grid, request.random, request.seed)
    train, test = (request.data(split) for split in ("train", "test"))
    for setting in wanted:
        setting.architecture(train)  # raises where an image is used up
    output = expand(request.output)
    radius = request.epsilon
    config = {"dataset": request.dataset, "limit": request.limit, "epsilon": radius}
    check = functools.partial(check_row, radius=radius, images=len(test.labels))
    journal = Journal(rows("sweep"), output, request.resume, config, check)
    known = {row["id"] for row in journal.records}
    missing = [setting for setting in wanted if setting.id not in known]
    groups, left = grouped(missing, request.population), len(missing)
    logging.info("%d of %d settings, in %d programs", left, len(wanted), len(groups))
    sweep = Sweep(train, test, output, logging.info, radius)
    begin, done = time.monotonic(), 0
    for group in groups:
        journal.append(*sweep.run(group))
        sweep.forget()
        done += len(group)
        spent = time.monotonic() - begin
        rest = spent / done * (left - done)
        logging.info("%d of %d settings, about %.0f s to go", done, left, rest)
    _finish(output, journal.records, wanted, request, test)
    return 0


def _finish(
    folder: Path,
    known: list[Row],
    wanted: list[Setting],
    request: Request,
    test: Dataset,
) -> None:
    ids = {setting.id for setting in wanted}
    found = [row for row in known if row["id"] in ids]
    text = table(found)
    (folder / "table.txt").write_text(text + "\n")
    print(text)
    chosen: tuple[str, ...] = ()
    written = ["sweep.jsonl", "table.txt"]
    if any(row["certified"] is not None for row in found):
        write_both(lambda scheme: front_chart(found, scheme), folder / "front")
        written.append("front.png")
        chosen = request.axes or tuple(varying(found)[:2])
        if len(chosen) == 2:
            pair = chosen[0], chosen[1]
            write_both(
                lambda scheme: heat_map(found, pair, scheme), folder / "heat_map"
            )
            written.append("heat_map.png")
    facts = {"command": request.command("sweep"), "data set": request.dataset}
    facts |= data_fact(test.images)
    write_page(folder / "report.html", found, facts, chosen)
    written.append("report.html")
    print(f"\nwrote {', '.join(written)} in {folder}")
