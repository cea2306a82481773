"""How far a run is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from jaxcert.errors import InputError


class Show(Protocol):
    """What is told how far a run is."""

    def __call__(self, done: int, words: str = "") -> None:
        """Shows it.

        Args:
          done: how many are.
          words: what they are; without, lines say how long the rest will take.
        """


@contextlib.contextmanager
def progress(
    doing: str, things: str, total: int, seconds_per_line: float
) -> Iterator[Show]:
    """Yields what shows how far a run is.

    Args:
      doing: what is done: "auditing".
      things: to what: "boxes".
      total: how many there are.
      seconds_per_line: where there is no terminal.
    """
    from rich.progress import Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    terminal = sys.stdout.isatty()
    lines = _Lines(things, total, seconds_per_line)
    with Progress(*columns, disable=not terminal, transient=True) as bar:
        task = bar.add_task(doing, total=total)

        def show(done: int, words: str = "") -> None:
            bar.update(task, completed=done)
            if not terminal:
                lines.tell(done, words)

        yield show


Told = Callable[[int, int], None]
"""Told now and then how many things are done, and of how many."""
Stage = Callable[[str], None]
"""Told the name of each stage as it begins."""


@contextlib.contextmanager
def told(asked: Told | bool | None, doing: str) -> Iterator[tuple[Told, Stage]]:
    """Yields what is told how far a search is, and at which stage.

    Args:
      asked: a function of (done, total); True for a bar on stderr, which shows in
        notebooks too; None or False for nothing.
      doing: what is done: "certifying".

    Raises:
      InputError: it is none of these.
    """
    if asked is None or asked is False:
        yield _silent, _silent
    elif asked is not True:
        if not callable(asked):
            raise InputError(
                f"progress is {asked!r}; pass True, or a function of (done, total)"
            )
        yield asked, _silent
    else:
        from rich.console import Console
        from rich.progress import (
            MofNCompleteColumn,
            Progress,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = Progress.get_default_columns()[:-2]
        more = MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        with Progress(*columns, *more, console=Console(stderr=True)) as bar:
            task = bar.add_task(doing, total=None)

            def stage(words: str) -> None:
                bar.update(task, description=f"{doing}: {words}")

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            yield show, stage


def _silent(*_: object) -> None:
    pass


class _Lines:
    """Lines on how far a run is, some seconds apart."""

    def __init__(self, things: str, total: int, seconds: float) -> None:
        self._things, self._total, self._seconds = things, total, seconds
        self._told = time.monotonic()
        # The first batch compiles: the pace is that of those after it.
        self._first: tuple[float, int] | None = None

    def tell(self, done: int, words: str) -> None:
        """Says how far it is, unless it has just been said."""
        from absl import logging

        now = time.monotonic()
        begin, before = self._first = self._first or (now, done)
        if now - self._told < self._seconds:
            return
        if not words and (done == self._total or done == before):
            return
        self._told = now
        if words:
            words = f": {words}"
        else:
            rest = (now - begin) / (done - before) * (self._total - done)
            words = f", about {rest:.0f} s to go"
        logging.info("%d of %d %s%s", done, self._total, self._things, words)
