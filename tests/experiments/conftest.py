"""A tiny network, and the script `certify` run in this process."""

from __future__ import annotations

import dataclasses
import logging as python_logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from absl.testing import flagsaver

SCRIPTS = Path(__file__).resolve().parents[2] / "experiments"
sys.path.insert(0, str(SCRIPTS))

from in_process import Ended  # noqa: E402

from jaxcert.commands import console  # noqa: E402
from jaxcert.commands.certify import command as certify  # noqa: E402
from jaxcert.learning.architecture import Architecture  # noqa: E402
from jaxcert.learning.data import load_dataset  # noqa: E402
from jaxcert.learning.models import export_onnx, from_params, save_checkpoint  # noqa: E402

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


Certify = Callable[..., Ended]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
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
    made = Tiny(tmp_path_factory.mktemp("tiny"), weights)
    save_checkpoint(made.checkpoint, network)
    export_onnx(made.onnx, network)
    return made


@pytest.fixture
def run_certify(tiny, capsys, monkeypatch) -> Certify:
    """Runs the script as its process would, by default on the tiny network.

    The oracle is crown unless named, for it is the one that compiles in little time.
    """
    # This process belongs to all tests; their compilations are not to be kept.
    monkeypatch.setattr(console, "_use_compilation_cache", lambda: None)

    def run(*arguments: object) -> Ended:
        # logtostderr: to the stream of the moment, not to that of the import.
        words = ["certify.py", "--logtostderr"]
        words += [f"--model={tiny.checkpoint}", "--oracle=crown"]
        words += map(str, arguments)
        capsys.readouterr()
        with flagsaver.flagsaver():
            try:
                rest = console._parse_flags(words)
                code = console.guarded(certify.main)(rest)
            except SystemExit as stopped:
                code = stopped.code
            finally:
                python_logging.root.removeHandler(logging.get_absl_handler())
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The numbers of inputs that the search was asked about, call by call."""
    made: list[int] = []
    batch = certify.Certifier.batch_with_proofs

    def counted(self, x, *arguments):
        made.append(len(x))
        return batch(self, x, *arguments)

    monkeypatch.setattr(certify.Certifier, "batch_with_proofs", counted)
    return made


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """For processes: one core, and one compilation cache for all of them."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture
def start(tiny, environment) -> Callable[..., subprocess.Popen]:
    """Starts the script as a process of its own; what still runs is ended."""
    started: list[subprocess.Popen] = []

    def begin(
        *arguments: object, more: dict[str, str] | None = None, **options
    ) -> subprocess.Popen:
        words = [sys.executable, str(SCRIPTS / "certify.py")]
        words += [f"--model={tiny.checkpoint}", "--oracle=crown", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        every = environment | (more or {})
        process = subprocess.Popen(words, env=every, **(pipes | options))
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
