"""The settings of a sweep: how they are written, drawn and grouped."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from typing import Any

import numpy as np

from jaxcert.errors import InputError
from jaxcert.learning.architecture import Architecture, usual_kernel
from jaxcert.learning.data import Dataset
from jaxcert.learning.evaluate import BOUNDS
from jaxcert.learning.train import METHODS, TrainConfig
from jaxcert.runs import strict_json


@dataclasses.dataclass(frozen=True)
class Setting:
    """One network to train and certify.

    Attributes:
      arch: "mlp" or "cnn" (two convolutions of stride 2, then the dense layers).
      width, depth: hidden dense layers.
      channels: of the first convolution; the second has twice as many.
      method, epochs, batch_size, lr, train_eps, warmup, ramp, kappa, beta, pgd_steps,
        seed: of the training; kappa and beta are those after the ramp.
      bound: what certifies.
    """

    arch: str = "mlp"
    width: int = 128
    depth: int = 1
    channels: int = 8
    method: str = "ibp"
    epochs: int = 5
    batch_size: int = 128
    lr: float = 1e-3
    train_eps: float = 0.1
    warmup: float = 0.5
    ramp: float = 2.0
    kappa: float = 0.5
    beta: float = 0.0
    pgd_steps: int = 7
    seed: int = 0
    bound: str = "crown_ibp"

    def __post_init__(self) -> None:
        for name, known in (
            ("arch", ("mlp", "cnn")), ("method", METHODS), ("bound", BOUNDS),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise InputError(
                    f"--grid: {name} is {getattr(self, name)!r}; choose one of "
                    f"{', '.join(known)}"
                )
        if self.depth < 0:
            raise InputError("--grid: depth must be at least 0")

    @property
    def id(self) -> str:
        """A name that equal settings share."""
        text = strict_json.dumps(dataclasses.asdict(self), "setting")
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def group(self) -> tuple[Any, ...]:
        """What settings that share a program agree in."""
        return (
            self.arch, self.width, self.depth, self.channels, self.method, self.epochs,
            self.batch_size, self.pgd_steps, self.bound,
        )  # fmt: skip

    def architecture(self, data: Dataset) -> Architecture:
        """Returns the network for a data set."""
        cnn = self.arch == "cnn"
        return Architecture(
            kind="cnn" if cnn else "mlp",
            input_shape=data.images.shape[1:],
            num_classes=len(data.class_names),
            hidden=(self.width,) * self.depth,
            channels=(self.channels, 2 * self.channels) if cnn else (),
            kernel=usual_kernel(data.images.shape[1:]) if cnn else 3,
            strides=(2, 2) if cnn else (),
        )

    def config(self) -> TrainConfig:
        """Returns how it is trained."""
        return TrainConfig(
            method=self.method,  # type: ignore[arg-type]  # checked above
            epsilon=self.train_eps,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.lr,
            seed=self.seed,
            warmup_epochs=self.warmup,
            ramp_epochs=self.ramp,
            kappa_end=self.kappa,
            beta_end=self.beta,
            pgd_steps=self.pgd_steps,
        )


_FIELDS = {field.name: field for field in dataclasses.fields(Setting)}


@dataclasses.dataclass(frozen=True)
class _List:
    """Values that are taken as they are."""

    values: tuple[Any, ...]

    def all(self, name: str) -> tuple[Any, ...]:
        del name
        return self.values

    def draw(self, random: np.random.Generator, name: str) -> Any:
        del name
        return self.values[int(random.integers(len(self.values)))]


@dataclasses.dataclass(frozen=True)
class _Range:
    """Numbers that are drawn evenly, or evenly in their logarithms."""

    low: float
    high: float
    logarithmic: bool

    def all(self, name: str) -> tuple[Any, ...]:
        raise InputError(
            f"--grid: {name} is a range; draw from it with --random=N, or write a list"
        )

    def draw(self, random: np.random.Generator, name: str) -> float:
        if self.logarithmic:
            ends = math.log(self.low), math.log(self.high)
            value = math.exp(random.uniform(*ends))
        else:
            value = random.uniform(self.low, self.high)
        return round(value) if _FIELDS[name].type == "int" else float(f"{value:.4g}")


def settings(text: str, draws: int, seed: int) -> list[Setting]:
    """Returns the settings of `--grid`, without repetitions.

    Args:
      text: such as "train_eps=0,0.05;lr=1e-4..1e-2:log;width=64,128": lists, and where
        settings are drawn ranges low..high, with `:log` in logarithms.
      draws: how many to draw at random; 0 for all combinations of the lists.
      seed: of the draws.

    Raises:
      InputError: what is wrong with the text, or a value that no setting takes.
    """
    axes = _axes(text)
    if draws:
        random = np.random.default_rng(seed)
        chosen: list[dict[str, Any]] = [
            {name: axis.draw(random, name) for name, axis in axes.items()}
            for _ in range(draws)
        ]
    else:
        values = [axis.all(name) for name, axis in axes.items()]
        chosen = [
            dict(zip(axes, row, strict=True)) for row in itertools.product(*values)
        ]
    found = [Setting(**row) for row in chosen]
    for setting in found:
        setting.config()  # raises where a number is out of range
    return list(dict.fromkeys(found))


def _axes(text: str) -> dict[str, _List | _Range]:
    axes: dict[str, _List | _Range] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, values = (word.strip() for word in part.partition("="))
        if name == "cert_eps":
            raise InputError(
                "--grid: networks are compared at one radius: give it as --epsilon, "
                "not as cert_eps"
            )
        if not separator or name not in _FIELDS:
            raise InputError(
                f"--grid: {part!r} is not NAME=VALUES with one of {', '.join(_FIELDS)}"
            )
        if name in axes:
            raise InputError(f"--grid: {name} is given twice")
        axes[name] = _range(name, values) if ".." in values else _list(name, values)
    return axes


def _list(name: str, text: str) -> _List:
    kind = str(_FIELDS[name].type)
    convert: Any = {"int": int, "str": str}.get(kind, float)
    try:
        return _List(tuple(convert(word.strip()) for word in text.split(",")))
    except ValueError as error:
        raise InputError(
            f"--grid: {name} takes {kind.split(' ')[0]} values with commas, got "
            f"{text!r}"
        ) from error


def _range(name: str, text: str) -> _Range:
    ends, _, scale = text.partition(":")
    low, _, high = ends.partition("..")
    try:
        found = _Range(float(low), float(high), scale == "log")
    except ValueError as error:
        raise InputError(
            f"--grid: {name} takes LOW..HIGH or LOW..HIGH:log, got {text!r}"
        ) from error
    proper = math.isfinite(found.high) and found.low <= found.high
    if scale not in ("", "log") or not proper or (found.logarithmic and found.low <= 0):
        raise InputError(
            f"--grid: {name} takes LOW..HIGH or LOW..HIGH:log, with LOW <= HIGH and, "
            f"for log, above 0, got {text!r}"
        )
    if _FIELDS[name].type == "str":
        raise InputError(f"--grid: {name} takes words, not a range")
    return found


def grouped(wanted: list[Setting], most: int) -> list[list[Setting]]:
    """Returns the settings in groups that share a program, `most` at a time."""
    groups: dict[Any, list[Setting]] = {}
    for setting in wanted:
        groups.setdefault(setting.group, []).append(setting)
    return [
        members[first : first + most]
        for members in groups.values()
        for first in range(0, len(members), most)
    ]
