"""Damaged files: seeded mutations of bytes, also of what lies packed inside."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator

import numpy as np


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the bytes with some flipped, cut off, put in, taken out or repeated."""
    buffer = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(buffer) + 1))
        size = int(rng.integers(1, 17))
        match rng.integers(6):
            case 0 | 1 if at < len(buffer):
                buffer[at] ^= 1 << int(rng.integers(8))
            case 2:
                del buffer[at:]
            case 3:
                buffer[at:at] = rng.bytes(size)
            case 4:
                del buffer[at : at + size]
            case _:
                buffer[at:at] = buffer[at : at + size]
    return bytes(buffer)


def damaged_inside(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns an archive or gzip file whose contents are damaged, not its wrapping.

    Checksums are right, so that readers get to see what was changed.
    """
    if data[:2] == b"\x1f\x8b":
        return gzip.compress(damaged(gzip.decompress(data), rng), 1)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = list(members)[int(rng.integers(len(members)))]
    # Most often the header of the array: its numbers are bytes like any other.
    content = members[chosen]
    head = 128 if rng.integers(3) and len(content) > 128 else len(content)
    members[chosen] = damaged(content[:head], rng) + content[head:]
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def mutations(data: bytes, count: int, seed: int = 0) -> Iterator[tuple[bytes, bool]]:
    """Yields damaged files, and whether checksums guard what they hold."""
    rng = np.random.default_rng(seed)
    packed = data[:2] in (b"PK", b"\x1f\x8b")
    ways: list[Callable[[bytes, np.random.Generator], bytes]] = [damaged]
    if packed:
        ways.append(damaged_inside)
    for index in range(count):
        way = ways[index % len(ways)]
        yield way(data, rng), packed and way is damaged
