"""Tiny networks: one for digits, as files and as arrays, and one of two inputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from jaxcert.learning.architecture import Architecture
from jaxcert.learning.data import load_dataset
from jaxcert.learning.models import export_onnx, from_params, save_checkpoint
from jaxcert.network import Network

HIDDEN = 24


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A network for digits, as files and as the arrays to check its answers with."""

    folder: Path
    weights: tuple[np.ndarray, ...]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "tiny.npz"

    @property
    def onnx(self) -> Path:
        return self.folder / "tiny.onnx"

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Returns the logits of (n, 8, 8, 1) inputs, by numpy in float64."""
        w1, b1, w2, b2 = (w.astype(np.float64) for w in self.weights)
        return np.maximum(x.reshape(len(x), -1) @ w1 + b1, 0) @ w2 + b2


def made_in(folder: Path) -> Tiny:
    """Random features and a least-squares readout: 76 % right, made in no time."""
    digits = load_dataset("digits", "train")
    x = digits.images.reshape(len(digits.labels), -1).astype(np.float64)
    random = np.random.default_rng(0)
    w1 = random.normal(size=(x.shape[1], HIDDEN)) / 4
    b1 = random.normal(size=HIDDEN) / 2
    features = np.c_[np.maximum(x @ w1 + b1, 0), np.ones(len(x))]
    readout = np.linalg.lstsq(features, np.eye(10)[digits.labels] * 2 - 1)[0]
    weights = w1, b1, readout[:-1], readout[-1]
    weights = tuple(w.astype(np.float32) for w in weights)
    layers = {
        0: {"kernel": weights[0], "bias": weights[1]},
        1: {"kernel": weights[2], "bias": weights[3]},
    }
    architecture = Architecture("mlp", (8, 8, 1), hidden=(HIDDEN,))
    network = from_params({"head": {"layers": layers}}, architecture, "tiny")
    made = Tiny(folder, weights)
    save_checkpoint(made.checkpoint, network)
    export_onnx(made.onnx, network)
    return made


def diamond_network() -> Network:
    """Returns a network of logits (|x_0| + |x_1|, 1)."""
    w1 = np.array([[1.0, -1, 0, 0], [0, 0, 1, -1]], np.float32)
    w2 = np.array([[1.0, 0]] * 4, np.float32)
    layers = {
        0: {"kernel": w1, "bias": np.zeros(4, np.float32)},
        1: {"kernel": w2, "bias": np.array([0.0, 1], np.float32)},
    }
    architecture = Architecture("mlp", (2,), num_classes=2, hidden=(4,))
    return from_params({"head": {"layers": layers}}, architecture, "diamond")
