"""Training and certifying one group of a sweep in one program."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxcert.commands.sweep.settings import Setting
from jaxcert.learning.data import Dataset
from jaxcert.learning.evaluate import (
    Evaluation,
    EvaluationOptions,
    evaluate,
    evaluate_population,
)
from jaxcert.learning.models import save_checkpoint
from jaxcert.learning.population import Member, takes_turns, train_population
from jaxcert.learning.train import EpochRecord

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """What all groups have in common.

    Attributes:
      train, test: the data.
      folder: where networks and unfinished groups are kept.
      log: takes what the user should read.
      radius: at which every network is attacked and certified.
    """

    train: Dataset
    test: Dataset
    folder: Path
    log: Callable[[str], None]
    radius: float

    def run(self, group: Sequence[Setting]) -> list[Row]:
        """Returns the rows of settings that share a program.

        A kill loses at most the epoch in progress: the group's state is kept.
        """
        names = ",".join(setting.id for setting in group)
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        kept = self.folder / "unfinished" / f"{digest}.npz"
        kept.parent.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        members = train_population(
            group[0].architecture(self.train),
            self.train,
            [setting.config() for setting in group],
            self._report,
            kept,
        )
        trained = time.perf_counter()
        images, networks = len(self.test.labels), len(members)
        self.log(f"evaluating {networks} networks on {images} images")
        evaluations = self._evaluate(group, members)
        seconds = (trained - begin, time.perf_counter() - trained)
        rows = [
            self._row(setting, member, evaluation, len(group), seconds)
            for setting, member, evaluation in zip(
                group, members, evaluations, strict=True
            )
        ]
        return rows

    def forget(self) -> None:
        """Removes the states of groups whose rows are stored."""
        for path in (self.folder / "unfinished").glob("*.npz"):
            path.unlink()

    def _report(self, records: tuple[EpochRecord, ...]) -> None:
        losses = [record.loss for record in records]
        seconds = sum(record.seconds for record in records)
        self.log(
            f"epoch {records[0].epoch}: {len(records)} networks, losses "
            f"{min(losses):.4f} to {max(losses):.4f}, {seconds:.1f} s"
        )

    def _evaluate(
        self, group: Sequence[Setting], members: Sequence[Member]
    ) -> list[Evaluation | None]:
        options = EvaluationOptions(bound=group[0].bound)  # type: ignore[arg-type]
        found: list[Evaluation | None] = [None] * len(group)
        whole = [
            (index, member.network)
            for index, member in enumerate(members)
            if member.network is not None
        ]
        if not whole:
            return found
        indices, networks = zip(*whole, strict=True)
        if takes_turns(group[0].architecture(self.train)):
            answers = tuple(
                evaluate(network, self.test, self.radius, options)
                for network in networks
            )
        else:
            radii = (self.radius,) * len(networks)
            answers = evaluate_population(networks, self.test, radii, options)
        for index, answer in zip(indices, answers, strict=True):
            found[index] = answer
        return found

    def _row(
        self,
        setting: Setting,
        member: Member,
        evaluation: Evaluation | None,
        size: int,
        seconds: tuple[float, float],
    ) -> Row:
        row: Row = {
            "id": setting.id,
            "setting": dataclasses.asdict(setting),
            "radius": self.radius,
            "clean": None, "attacked": None, "certified": None,
            "images": len(self.test.labels),
            "loss": member.history[-1].loss,
            "train_seconds": seconds[0] / size,
            "evaluate_seconds": seconds[1] / size,
            "group_size": size,
            "network": None,
            "content_hash": None,
        }  # fmt: skip
        if member.network is None or evaluation is None:
            return row
        path = self.folder / "networks" / f"{setting.id}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, member.network, {"setting": row["setting"]})
        return row | {
            "clean": evaluation.clean,
            "attacked": evaluation.attacked,
            "certified": evaluation.certified,
            "network": f"networks/{path.name}",
            "content_hash": member.network.content_hash,
        }


def check_row(row: Row, radius: float, images: int) -> None:
    """Raises ValueError unless a stored row is one that `Sweep` writes.

    Args:
      row: as it was read.
      radius, images: those of the sweep.
    """
    if Setting(**row["setting"]).id != row["id"]:
        raise ValueError("its setting is not the one of its id")
    if row["radius"] != radius or row["images"] != images:
        raise ValueError(f"certified on {row['images']} images at {row['radius']}")
    shares = [row[name] for name in ("certified", "attacked", "clean")]
    if shares == [None] * 3:
        return  # its training diverged
    if not all(isinstance(share, float) for share in shares):
        raise ValueError("a share is no number")
    if not 0 <= shares[0] <= shares[1] <= shares[2] <= 1:
        raise ValueError("certified, attacked and clean are not in order")
