"""One run in several processes: which part is ours, and putting the parts together.

Process I of N answers the batches I, I + N, I + 2N ... of the run and stores them in
OUTPUT/shards/I-of-N. So every batch is the one that a single process would have made,
and merging gives its files to the last bit, but for the times.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcert.commands.certify.request import Request
from jaxcert.commands.inputs import Selection
from jaxcert.errors import InputError
from jaxcert.report import Run, RunFiles, read_run
from jaxcert.report.stored import refines
from jaxcert.runs.files import writing


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part of a run that one of several processes answers.

    Attributes:
      index: the process, from 0.
      count: how many processes there are.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def folder(self, output: Path) -> Path:
        """Returns where its files are."""
        return output / "shards" / str(self)

    def rows(self, inputs: int, batch: int) -> np.ndarray:
        """Returns which inputs are its own, in order."""
        rows = np.arange(inputs)
        return rows[rows // batch % self.count == self.index]


def this_shard(request: Request) -> Shard | None:
    """Returns the part of this process; None if it is alone.

    Call it before anything is computed. Processes meet once, to learn who they are;
    nothing is exchanged after that, so none waits for another, and one that dies takes
    no other with it.

    Raises:
      InputError: flags that do not go together, or no cluster was found.
    """
    index, count = request.process, request.processes
    if request.merge:
        if request.distributed or request.coordinator or index is not None:
            raise InputError(
                "--merge is one process's work: give it without --distributed, "
                "--coordinator and --process"
            )
        return None
    if (index is None) != (count is None):
        raise InputError("--processes and --process go together: give both or none")
    own = None
    if index is not None and count is not None:
        own = Shard(index, count)
        if not 0 <= index < count:
            raise InputError(
                f"--process is {index}; it must lie in 0 .. {count - 1}, one less than "
                "--processes"
            )
    if request.distributed and (index is not None or request.coordinator):
        raise InputError(
            "--distributed finds out by itself: give it without --coordinator, "
            "--processes and --process"
        )
    if request.coordinator:
        if index is None:
            raise InputError("--coordinator needs --processes and --process")
        if not re.fullmatch(r".+:\d+", request.coordinator):
            raise InputError(
                f"--coordinator is {request.coordinator!r}; write HOST:PORT"
            )
    if request.distributed or request.coordinator:
        return _met(request.coordinator, count, index)
    return own


def _met(address: str | None, count: int | None, index: int | None) -> Shard:
    """Returns what `jax.distributed` knows of this process, and leaves it again."""
    try:
        jax.distributed.initialize(address, count, index)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the other processes cannot be met at {address} ({error}). Name a free "
            "port of process 0 with --coordinator"
            if address
            else f"--distributed: JAX found no cluster here ({error}). Give "
            "--coordinator, --processes and --process"
        ) from error
    shard = Shard(jax.process_index(), jax.process_count())
    jax.distributed.shutdown()
    # Else the backend would go on looking for the others when it compiles.
    jax.extend.backend.clear_backends()
    return shard


@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """A run of several processes, to be put together.

    Attributes:
      output: its folder.
      chosen: its inputs.
      batch: inputs per batch.
      processes: how many there were; None: what the folder says.
    """

    output: Path
    chosen: Selection
    batch: int
    processes: int | None


def _shards_in(output: Path, processes: int | None) -> tuple[Shard, ...]:
    """Returns the shards of the run in `output`; all of them, also missing ones.

    Raises:
      InputError: there are none, or they are of runs with different numbers of
        processes.
    """
    names = [path.name for path in (output / "shards").glob("*-of-*") if path.is_dir()]
    counts = {int(name.rpartition("-")[2]) for name in names}
    if processes is not None:
        counts = {processes} & counts
    if not counts:
        raise InputError(
            f"{output} holds no shards to merge. Give the --output that the processes "
            "were given"
        )
    if len(counts) > 1:
        raise InputError(
            f"{output / 'shards'} holds shards of runs with "
            f"{' and '.join(map(str, sorted(counts)))} processes: say with --processes "
            "which to merge"
        )
    (count,) = counts
    return tuple(Shard(index, count) for index in range(count))


def of_shards(config: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """Returns the settings of a run's shards.

    With batches of another size other inputs would be theirs.
    """
    return {**config, "batch_size": batch}


def read_shards(whole: Whole, config: Mapping[str, Any]) -> tuple[Run, ...]:
    """Returns the runs of all processes.

    Args:
      whole: the run.
      config: the settings that the shards must have.

    Raises:
      InputError: a shard is missing, incomplete, or of other settings; says which.
    """
    shards = _shards_in(whole.output, whole.processes)
    return tuple(_checked(shard, whole, config) for shard in shards)


def merge(files: RunFiles, shards: Sequence[Run], whole: Whole) -> None:
    """Stores the answers of all shards, in the order of a single process.

    Args:
      files: of the run that is put together; what it holds is not stored again,
        unless its bracket was refined since.
      shards: see `read_shards`.
      whole: the run.
    """
    # Before the lines: a certificate may prove more than is said, never less.
    for shard in _shards_in(files.directory, whole.processes):
        proofs = shard.folder(files.directory) / "proofs"
        if proofs.is_dir():
            with writing(files.directory):
                shutil.copytree(proofs, files.directory / "proofs", dirs_exist_ok=True)
    names_of_all, batch = whole.chosen.names, whole.batch
    if not files.done:
        files.add_seconds(max(run.about.get("wall_seconds", 0.0) for run in shards))
    rows = [{r["input"]: i for i, r in enumerate(run.records)} for run in shards]
    held = {r["input"]: r for r in read_run(files.directory).records}
    for start in range(0, len(names_of_all), batch):
        names = names_of_all[start : start + batch]
        source = start // batch % len(shards)
        run = shards[source]
        mine = [rows[source][name] for name in names]
        new = [i for i in mine if run.records[i]["input"] not in held]
        files.append([run.records[i] for i in new], **_arrays(run, new))
        narrower = [
            i
            for i in mine
            if (own := run.records[i])["input"] in held
            and refines(own, held[own["input"]])
        ]
        files.refine([run.records[i] for i in narrower], **_arrays(run, narrower))


def _arrays(run: Run, rows: Sequence[int]) -> dict[str, Any]:
    """Returns boxes and witnesses of some rows, as `RunFiles.append` takes them."""
    names = ("x", "lo", "hi", "witness", "witness_class")
    return {name: getattr(run, name)[list(rows)] for name in names}


def _checked(shard: Shard, whole: Whole, config: Mapping[str, Any]) -> Run:
    """Returns the run of a shard that answers all of its inputs, under `config`."""
    folder, chosen = shard.folder(whole.output), whole.chosen
    again = (
        f"Run it with --processes={shard.count} --process={shard.index} --resume and "
        "otherwise the same flags"
    )
    if not folder.is_dir():
        raise InputError(f"shard {shard} is missing: there is no {folder}. {again}")
    run = read_run(folder)
    check_unchanged(folder, run, chosen)
    for key in sorted(config.keys() | run.config.keys()):
        there, here = run.config.get(key), config.get(key)
        if there != here:
            raise InputError(
                f"shard {shard} has other settings: {key} is {there!r} there and "
                f"{here!r} here. Merge with the flags of the processes"
            )
    done = {record["input"] for record in run.records}
    names = [chosen.names[i] for i in shard.rows(len(chosen.names), whole.batch)]
    missing = [name for name in names if name not in done]
    if missing:
        raise InputError(
            f"shard {shard} is incomplete: {len(missing)} of its {len(names)} inputs "
            f"are not answered, the first is {missing[0]!r}. {again}"
        )
    return run


def check_unchanged(folder: Path, run: Run, chosen: Selection) -> None:
    """Raises InputError if the run answers an input of equal name but other values."""
    stored = {record["input"]: row for row, record in enumerate(run.records)}
    for row, name in enumerate(chosen.names):
        if name not in stored:
            continue
        label = None if chosen.labels is None else int(chosen.labels[row])
        same = np.array_equal(run.x[stored[name]], chosen.x[row])
        if not same or run.records[stored[name]]["label"] != label:
            raise InputError(
                f"input {name} has other values or another label in the run that "
                f"{folder} holds. Choose another --output"
            )
