"""Binary tasks with a sensitive class, and the shifts that match their accuracies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxcert.errors import InputError
from jaxcert.learning.data import Dataset, load_dataset

NORMS = (1.0, 2.0, float("inf"))
NORM_NAMES = ("l1", "l2", "linf")


@dataclasses.dataclass(frozen=True)
class Task:
    """Two classes of a data set, and what suits them.

    Attributes:
      sensitive: the class that is certified; the published choice.
      other: the class that an attacker wants predicted instead.
      kind: of the convex network.
      ibp_epsilon: radius that the IBP network is trained at.
      sigma: noise of randomized smoothing.
    """

    sensitive: int
    other: int
    kind: Literal["mlp", "cnn"]
    ibp_epsilon: float
    sigma: float


TASKS = {
    "mnist": Task(3, 8, "mlp", 0.1, 0.5),
    "fashion_mnist": Task(0, 6, "cnn", 0.02, 0.5),
    "digits": Task(3, 8, "mlp", 0.05, 0.25),
}


@dataclasses.dataclass(frozen=True, eq=False)
class TaskData:
    """The images of a task, label 1 for the sensitive class, else 0.

    Attributes:
      fit: what networks are trained on: the training split without `validation`.
      validation: what logit shifts are chosen on.
      test: what is reported on.
      index: position of every test image in the data set's test split.
    """

    fit: Dataset
    validation: Dataset
    test: Dataset
    index: np.ndarray


def load_task(
    name: str, task: Task, data_dir: str | None, validation: int, seed: int
) -> TaskData:
    """Returns the images of a task; `validation` of the training ones are kept apart.

    Raises:
      InputError: more validation images than half of the training images.
    """
    train, _ = _two_classes(load_dataset(name, "train", data_dir), task)
    test, index = _two_classes(load_dataset(name, "test", data_dir), task)
    if validation > len(train.labels) // 2:
        raise InputError(
            f"{validation} validation images are more than half of the "
            f"{len(train.labels)} training images: make --validation smaller"
        )
    order = np.random.default_rng(seed).permutation(len(train.labels))
    return TaskData(
        fit=_rows(train, order[validation:]),
        validation=_rows(train, order[:validation]),
        test=test,
        index=index,
    )


def _two_classes(data: Dataset, task: Task) -> tuple[Dataset, np.ndarray]:
    index = np.flatnonzero(np.isin(data.labels, (task.sensitive, task.other)))
    chosen = _rows(data, index)
    names = data.class_names[task.other], data.class_names[task.sensitive]
    labels = (chosen.labels == task.sensitive).astype(np.int32)
    return dataclasses.replace(chosen, labels=labels, class_names=names), index


def _rows(data: Dataset, rows: np.ndarray) -> Dataset:
    return dataclasses.replace(data, images=data.images[rows], labels=data.labels[rows])


def thresholds(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns all shifts that differ in effect, and the accuracy of each.

    The sensitive class is predicted where score + shift > 0; shifts increase, so that
    more and more is predicted sensitive.
    """
    ordered = np.unique(scores)[::-1]
    middle = (ordered[:-1] + ordered[1:]) / 2
    cuts = np.concatenate([[ordered[0] + 1], middle, [ordered[-1] - 1]])
    sensitive = np.sort(scores[labels == 1])
    other = np.sort(scores[labels == 0])
    right = len(sensitive) - np.searchsorted(sensitive, cuts, "right")
    right = right + np.searchsorted(other, cuts, "right")
    return -cuts, right / len(scores)


def matched_shifts(
    scores: Sequence[np.ndarray], labels: np.ndarray
) -> tuple[list[float], float]:
    """Returns a shift per method, and the clean accuracy that they are matched at.

    That accuracy is what the least accurate method reaches at its best shift. Every
    method is shifted as far towards the sensitive class as it can be without falling
    below it: all spend the same accuracy on the class that is certified.

    Args:
      scores: per method, of the validation images.
      labels: of the validation images.
    """
    curves = [thresholds(values, labels) for values in scores]
    target = min(float(accuracy.max()) for _, accuracy in curves)
    shifts = [float(shift[accuracy >= target][-1]) for shift, accuracy in curves]
    return shifts, target


def implied_radii(radius: np.ndarray, norm: int, size: int) -> np.ndarray:
    """Returns radii in the norms l1, l2 and linf that a radius in one implies, (n, 3).

    |v|_p <= |v|_q for q <= p, and |v|_p <= d^(1/p - 1/q) |v|_q for q > p: the ball of
    the other norm that lies inside. Rounded down.

    Args:
      radius: shape (n,).
      norm: its norm's position in `NORMS`.
      size: number d of features.
    """
    power = 0.0 if NORMS[norm] == np.inf else 1 / NORMS[norm]
    columns = []
    for other in NORMS:
        shrink = size ** min((0.0 if other == np.inf else 1 / other) - power, 0)
        exact = shrink == 1
        columns.append(radius if exact else radius * shrink * (1 - 2.0**-40))
    return np.stack(columns, axis=1)
