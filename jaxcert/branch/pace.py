"""Pace: how many steps of a search the device gets at a time, so that limits are kept.

A search runs in chunks of steps, and the host looks at the clock between two of them.
How long a step takes depends on the network by a factor of 10^4, so it is measured.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

# What a chunk should take; looking in between costs a few milliseconds.
_SECONDS = 0.5


class Pace:
    """The size of the next chunk; all of them are full ones where there is no limit."""

    def __init__(self, most: int, deadline: Any) -> None:
        """Begins with one step: it may hold a compilation.

        Args:
          most: steps of a chunk.
          deadline: `time.monotonic()` by which a chunk should end; it may be an array
            () that comes forward.
        """
        self._most, self._deadline = most, deadline
        self._steps = most if math.isinf(float(deadline)) else 1

    @contextlib.contextmanager
    def chunk(self) -> Iterator[np.int32]:
        """Gives the number of steps to take within the block, and measures them."""
        begin = time.monotonic()
        yield np.int32(self._steps)
        now = time.monotonic()
        left = float(self._deadline) - now
        if math.isinf(left):
            return
        each = max(now - begin, 1e-6) / self._steps
        wanted = max(min(_SECONDS, left), 0) / each
        # Fewer may have been taken than were allowed: growth is by 2 at most.
        self._steps = int(max(min(wanted, 2 * self._steps, self._most), 1))
