"""What is measured, in which order, and how long each may take: most valuable first."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

ACCELERATOR, HOST = "accelerator", "host"
LANES = (ACCELERATOR, HOST)
"""What computes: the device that JAX takes by itself, or the CPU of its machine."""

TESTS = (
    "tests/bounds/test_soundness.py",
    "tests/bounds/test_roots.py",
    "tests/oracle/test_complete.py",
    "tests/certificate/test_store.py",
)
FEW_TESTS = ("tests/bounds/test_roots.py",)
NETWORKS = "784-32-10,256x2,256x4,256x6,cnn,resnet"


@dataclasses.dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
      name: unique in its lane.
      lane: what computes.
      command: what follows the interpreter; `{out}` is the folder of the part.
      limit: seconds, of which it may take no more.
      rows: of `{out}`, the file of what it has found; "" where only its end counts.
    """

    name: str
    lane: str
    command: tuple[str, ...]
    limit: float
    rows: str = "rows.jsonl"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Makes the parts.

    Attributes:
      pack: the folder that pack.sh has filled.
      small: cut sizes to what a rehearsal on two cores can wait for.
    """

    pack: Path
    small: bool

    def parts(self) -> list[Part]:
        """Returns all parts, those of a lane in the order that they are run in."""
        mnist, fashion = self._published("mnist"), self._published("fashion_mnist")
        return [
            self._rates(ACCELERATOR),
            self._tests(),
            self._throughput(ACCELERATOR),
            _device("brackets", ACCELERATOR, 60, *mnist, name="mnist"),
            _device(
                "profile", ACCELERATOR, 50, *mnist,
                *self._cut("--network=784-32-10", "--batch=16"),
            ),
            self._blocks(ACCELERATOR, "0,256,4096"),
            self._images(ACCELERATOR, "1000 images", "0:1000", 60),
            self._samples(ACCELERATOR),
            self._benchmark("mnist_fc", ACCELERATOR, 70, 20),
            _device("brackets", ACCELERATOR, 45, *fashion, name="fashion"),
            self._benchmark("oval21", ACCELERATOR, 70, 30),
            self._sweep(),
            self._images(ACCELERATOR, "10000 images", "all", 90),
            self._rates(HOST),
            self._throughput(HOST),
            _device("brackets", HOST, 60, *mnist, name="mnist"),
            self._blocks(HOST, "0"),
            self._images(HOST, "1000 images", "0:1000", 80),
            self._samples(HOST),
            self._benchmark("mnist_fc", HOST, 110, 20),
        ]  # fmt: skip

    def _rates(self, lane: str) -> Part:
        size = () if lane == ACCELERATOR else ("--size=4096",)
        cut = self._cut("--size=512", "--copied=4000000")
        return _device("rates", lane, 40, *size, *cut)

    def _throughput(self, lane: str) -> Part:
        host = lane == HOST
        tools = ("--tools=jaxcert",) if host else ()
        batches = "64,1024" if host else "64,1024,8192,65536"
        return _script(
            "throughput", lane, 120, "throughput.jsonl",
            f"--model={'784-32-10,cnn' if self.small else NETWORKS}",
            f"--batches={8 if self.small else batches}", *tools,
            f"--chunk={8 if host else 0}", "--methods=crown,ibp", "--seconds=0.3",
            "--output={out}",
        )  # fmt: skip

    def _blocks(self, lane: str, sizes: str) -> Part:
        net = self.pack / "vnncomp/mnist_fc/onnx/mnist-net_256x2.onnx.gz"
        _, inputs = self._published("mnist")
        cut = self._cut("--boxes=4", "--seconds=1", "--blocks=0")
        return _device(
            "blocks", lane, 75, f"--model={net}", inputs, f"--blocks={sizes}", *cut
        )

    def _samples(self, lane: str) -> Part:
        sizes = ("--batches=250,16000",) if lane == HOST else ()
        cut = self._cut("--inputs=4", "--n=500", "--batches=250", "--model=cnn")
        return _device("samples", lane, 30, *sizes, *cut)

    def _tests(self) -> Part:
        chosen = FEW_TESTS if self.small else TESTS
        command = ("-m", "pytest", "-q", "-n", "4", "--junitxml={out}/tests.xml")
        return Part("tests", ACCELERATOR, (*command, *chosen), 110, "tests.xml")

    def _published(self, name: str) -> tuple[str, str]:
        network = {"mnist": "mnist_nn-32", "fashion_mnist": "fashion_mnist_nn-64"}[name]
        inputs = self.pack / "inputs" / (f"{name}_few" if self.small else name)
        model = self.pack / "networks" / f"{network}.onnx"
        return f"--model={model}", f"--inputs={inputs}"

    def _images(self, lane: str, name: str, which: str, limit: float) -> Part:
        model, _ = self._published("fashion_mnist")
        return _device(
            "brackets", lane, limit, model, f"--data_dir={self.pack}/data",
            f"--inputs={'0:4' if self.small else which}", "--passes=1",
            f"--batch_size={64 if lane == HOST else 256}", name=name,
        )  # fmt: skip

    def _benchmark(self, name: str, lane: str, limit: float, each: float) -> Part:
        folder = self.pack / "vnncomp" / name
        few = ("--only=prop_0_0.03",) if name == "mnist_fc" else ("--only=img8194",)
        return _script(
            "verify", lane, limit, "results.csv",
            f"--instances={folder}/instances.csv", f"--timeout={each}",
            "--output={out}/results.csv", *(few if self.small else ()), name=name,
        )  # fmt: skip

    def _sweep(self) -> Part:
        grid = "width=32,64;depth=1,2;lr=1e-3,3e-3;train_eps=0.01,0.03;epochs=2"
        if self.small:
            grid = "width=8;lr=1e-3,3e-3;train_eps=0.01;epochs=1"
        return _script(
            "sweep", ACCELERATOR, 60, "sweep.jsonl", f"--grid={grid}",
            f"--data_dir={self.pack}/data", "--output={out}",
            *self._cut("--limit=500"),
        )  # fmt: skip

    def _cut(self, *flags: str) -> tuple[str, ...]:
        return flags if self.small else ()


def _device(module: str, lane: str, limit: float, *flags: str, name: str = "") -> Part:
    command = ("-m", "device", module, *flags, "--output={out}")
    return Part(name or module, lane, command, limit)


def _script(
    script: str, lane: str, limit: float, rows: str, *flags: str, name: str = ""
) -> Part:
    return Part(name or script, lane, (f"experiments/{script}.py", *flags), limit, rows)


def interpreter() -> str:
    """Returns what runs the parts."""
    return sys.executable
