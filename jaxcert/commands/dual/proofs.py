"""Writing the certificates of dual boxes, as soon as a box is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Self

from absl import logging

from jaxcert.certificate.answers import stored_network
from jaxcert.certificate.duals import write_dual
from jaxcert.model import Model
from jaxcert.runs.files import file_stem
from jaxcert.search.dual import DualBox, DualOptions


@dataclasses.dataclass
class Proofs:
    """Writes one certificate per dual box, and counts.

    Attributes:
      folder: where they go.
      model: the network, as it is stored.
      lowest: whether the least output wins.
      written: boxes of which one was accepted.
      tried: boxes of which one was looked for.
      seconds: that their checks took.
    """

    folder: Path
    model: Model
    lowest: bool
    written: int = 0
    tried: int = 0
    seconds: float = 0.0

    @classmethod
    def into(cls, folder: Path, model: Model, lowest: bool) -> Self:
        """Returns the writer of proofs about a network.

        Raises:
          UnsupportedError: it is not one that certificates exist for.
        """
        stored_network(model)
        return cls(folder, model, lowest)

    def path(self, name: str, label: int) -> Path:
        """Returns the file of a class, of the whole domain if the name is empty."""
        stem = f"{name}-class-{label}" if name else f"class-{label}"
        return self.folder / f"{file_stem(stem)}.npz"

    def has(self, name: str, label: int) -> bool:
        """Whether the file of a class is there."""
        return self.path(name, label).is_file()

    def write(self, name: str, box: DualBox, deadline: float) -> None:
        """Writes the certificate of a box; says why, if there is none."""
        found = write_dual(
            self.path(name, box.label), self.model, box, DualOptions().branch,
            lowest=self.lowest, deadline=deadline,
        )  # fmt: skip
        self.tried += 1
        if found.path is not None and found.report is not None:
            self.written += 1
            self.seconds += found.report.seconds
            return
        logging.warning(
            "%sclass %d has no certificate: %s",
            name and f"{name} ", box.label, found.refused,
        )  # fmt: skip

    def summary(self) -> str:
        """Returns what to print of them."""
        return (
            f"certificates: {self.written} of {self.tried} boxes, accepted by the "
            f"independent checker in {self.seconds:.1f} s;\ncheck again: jaxcert check "
            f"{self.folder}"
        )
