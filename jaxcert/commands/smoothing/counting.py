"""Counting noisy samples for many inputs, stored as it goes."""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from jaxcert.errors import InputError
from jaxcert.runs.array_files import read_npz, write_npz
from jaxcert.runs.files import writing
from jaxcert.smoothing import Smoother, Tally

PARTIAL = "counts.npz"
_SECONDS_PER_LINE = 10.0


@dataclasses.dataclass(frozen=True, eq=False)
class Counted:
    """The finished counts of a group of inputs.

    Attributes:
      rows: which of the inputs.
      tally: their counts.
      earlier: samples -> hits of the selected class among the first so many.
      seconds: per input, of this process.
    """

    rows: np.ndarray
    tally: Tally
    earlier: dict[int, np.ndarray]
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Inputs whose answers are to be counted.

    Attributes:
      name: of the task.
      settings: all that the counts depend on, as text; counts that were stored under
        others are not taken up.
      smoother: what counts.
      names: one per input; the input's key comes from it.
      x: the inputs.
      key: of the run.
      marks: sample counts at which the hits are noted.
    """

    name: str
    settings: str
    smoother: Smoother
    names: Sequence[str]
    x: np.ndarray
    key: jax.Array
    marks: tuple[int, ...] = ()

    def keys(self, rows: np.ndarray) -> jax.Array:
        """Returns the key of each input: of its name, so that no batch changes it."""
        numbers = [zlib.crc32(self.names[int(row)].encode()) for row in rows]
        return jax.vmap(jax.random.fold_in, (None, 0))(
            self.key, jnp.array(numbers, jnp.uint32)
        )


def count(
    task: Task, folder: Path, group: int = 50, step: int = 10_000
) -> Iterator[Counted]:
    """Yields groups of inputs as their counts are finished.

    The counts of the group in progress are stored in FOLDER/counts.npz after every
    `step` samples of each of its inputs, and are taken up from there.
    """
    path = folder / PARTIAL
    for first in range(0, len(task.names), group):
        rows = np.arange(first, min(first + group, len(task.names)))
        # A last, smaller group is filled up, so that it compiles nothing.
        padded = np.resize(rows, min(group, max(len(task.names), 1)))
        names = [task.settings, task.name, *(task.names[int(row)] for row in padded)]
        keys, x = task.keys(padded), task.x[padded]
        begin = said = time.monotonic()
        smoother = task.smoother
        tally, earlier = _stored(path, names) or (smoother.select(keys, x), {})
        while (is_open := smoother.open(tally)).any():
            drawn = int(tally.samples[is_open].min())
            ends = [mark for mark in task.marks if mark > drawn]
            most = min([step, *(mark - drawn for mark in ends)])
            tally = smoother.advance(tally, keys, x, most)
            for mark in task.marks:
                if (tally.samples == mark).all():
                    earlier[mark] = tally.hits
            _store(path, names, tally, earlier)
            if time.monotonic() - said > _SECONDS_PER_LINE:
                said = time.monotonic()
                least, n = int(tally.samples.min()), smoother.options.n
                logging.info(
                    "%s: inputs %d to %d of %d, sample %d of %d", task.name, first + 1,
                    rows[-1] + 1, len(task.names), least, n,
                )  # fmt: skip
        m = len(rows)
        kept = Tally(tally.selection[:m], tally.counts[:m], tally.samples[:m])
        earlier = {mark: hits[:m] for mark, hits in earlier.items()}
        yield Counted(rows, kept, earlier, (time.monotonic() - begin) / m)
        with writing(path):
            path.unlink(missing_ok=True)


def _store(
    path: Path, names: list[str], tally: Tally, earlier: dict[int, np.ndarray]
) -> None:
    arrays: dict[str, Any] = dataclasses.asdict(tally) | {"names": np.array(names)}
    arrays |= {f"at {mark}": hits for mark, hits in earlier.items()}
    write_npz(path, arrays, compressed=False)


def _stored(path: Path, names: list[str]) -> tuple[Tally, dict[int, np.ndarray]] | None:
    """Returns the counts of an interrupted run; None if there are none of this group.

    Samples are numbered, so that counting anew from 0 would give the same counts.
    """
    if not path.exists():
        return None
    try:
        arrays = read_npz(path, "")
        if arrays.pop("names").tolist() != names:
            return None
        earlier = {
            int(key.removeprefix("at ")): arrays.pop(key)
            for key in list(arrays)
            if key.startswith("at ")
        }
        counts = dataclasses.asdict(found := Tally(**arrays)).values()
        if any(a.dtype.kind not in "iu" or not a.ndim for a in counts):
            raise ValueError("other counts")
        return found, earlier
    except (InputError, ValueError, KeyError, TypeError):
        logging.warning("%s is damaged: its inputs are counted anew", path)
        return None
