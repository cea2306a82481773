"""How much memory there is: stacks and blocks are sized by bytes, never by a count.

What an item weighs depends on the network: a box of two features is 32 bytes, one of a
colour image 48 kB. A stack takes its share of what is free on the device, or of what
the system and the limits of this process (`ulimit -v`, a container) leave on the CPU.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcert.devices import local_devices

# No stack takes more than this, nor more than this share of what is free: there are
# other stacks, a step's own arrays, and XLA may copy a stack once.
_MOST_BYTES, _SHARE = 1 << 31, 8
# Where the system says nothing.
_UNKNOWN = 1 << 33


def free_bytes(device: jax.Device | None = None) -> int:
    """Returns how many bytes may still be allocated on a device, by default our own."""
    device = device or local_devices()[0]
    if device.platform == "cpu":
        return max(min([*_free_on_host()], default=_UNKNOWN), 0)
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return _UNKNOWN
    return max(stats["bytes_limit"] - stats.get("bytes_in_use", 0), 0)


def _free_on_host() -> Iterator[int]:
    """Yields what every limit that this process is under leaves of it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        (line,) = (
            line
            for line in Path("/proc/meminfo").read_text().splitlines()
            if line.startswith("MemAvailable:")
        )
        yield int(line.split()[1]) << 10
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text())  # "max" is no limit
        yield limit - int((group / "memory.current").read_text())
    with contextlib.suppress(OSError, ValueError, ImportError):
        import resource  # not on every system

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            yield limit - pages * os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Returns how much memory this process holds; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of a pytree of arrays, or of their shapes."""
    return sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def room_for(each: int, least: int, most: int, most_bytes: int = _MOST_BYTES) -> int:
    """Returns how many items of `each` bytes a stack or block may hold.

    A power of two, unless it is `least` or `most`: sizes are shapes of compiled
    programs, and must not change with every byte that is free.

    Args:
      each: bytes of an item.
      least: below which there is no work to be done at all.
      most: beyond which more does not help.
      most_bytes: that all of them may take.
    """
    fits = min(most_bytes, free_bytes() // _SHARE) // max(each, 1)
    if fits >= most:
        return max(least, most)
    return max(least, 1 << max(fits.bit_length() - 1, 0))
