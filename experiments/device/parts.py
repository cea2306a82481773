"""What is measured, in which order, and how long each may take: most valuable first."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from device.verdicts import VERDICTS

ACCELERATOR, HOST = "accelerator", "host"
LANES = (ACCELERATOR, HOST)
"""What computes: the device that JAX takes by itself, or the CPU of its machine."""

TESTS = (
    "tests/bounds/test_soundness.py",
    "tests/bounds/test_roots.py",
    "tests/bounds/test_overflow.py",
    "tests/oracle/test_complete.py",
    "tests/certificate/test_store.py",
)
FEW_TESTS = ("tests/bounds/test_roots.py",)
# The flags of the tests are for CPUs: they compile quickly there.
FIRST, OTHERS = "784-32-10,256x4,cnn", "256x2,resnet,256x6"
"""Networks of `throughput`: what is asked first, and the rest."""
AS_USERS_DO = (("XLA_FLAGS", ""),)


@dataclasses.dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
      name: unique in its lane.
      lane: what computes.
      command: what follows the interpreter; `{out}` is the folder of the part.
      limit: seconds, of which it may take no more.
      rows: of `{out}`, the file of what it has found; "" where only its end counts.
      environment: variables that are set for it.
    """

    name: str
    lane: str
    command: tuple[str, ...]
    limit: float
    rows: str = "rows.jsonl"
    environment: tuple[tuple[str, str], ...] = ()


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
        wide = "784-32-10" if self.small else FIRST
        return [
            self._rates(ACCELERATOR),
            self._tests(),
            self._throughput("throughput", ACCELERATOR, FIRST, "8192,64", 120),
            _device("brackets", ACCELERATOR, 90, *mnist, name="mnist"),
            _device(
                "profile", ACCELERATOR, 60, *mnist,
                *self._cut("--network=784-32-10", "--batch=16"),
            ),
            self._images(ACCELERATOR, "1000 images", "0:1000", 100),
            self._blocks(ACCELERATOR, "0,256,4096"),
            self._benchmark("mnist_fc", "256x2", ACCELERATOR, 80, 40),
            self._throughput("throughput more", ACCELERATOR, OTHERS, "8192,64", 90),
            self._samples(ACCELERATOR),
            self._sweep(),
            self._images(ACCELERATOR, "10000 images", "all", 90),
            self._throughput("throughput wide", ACCELERATOR, wide, "65536,1024", 80),
            self._benchmark("oval21", "", ACCELERATOR, 70, 30),
            _device("brackets", ACCELERATOR, 45, *fashion, name="fashion"),
            self._benchmark("mnist_fc", "256x4", ACCELERATOR, 90, 30),
            self._rates(HOST),
            self._throughput("throughput", HOST, FIRST, "64,1024", 80),
            _device("brackets", HOST, 60, *mnist, name="mnist"),
            self._images(HOST, "1000 images", "0:1000", 80),
            self._blocks(HOST, "0"),
            self._benchmark("mnist_fc", "256x2", HOST, 80, 40),
            self._throughput("throughput more", HOST, OTHERS, "64,1024", 80),
            self._samples(HOST),
        ]  # fmt: skip

    def _rates(self, lane: str) -> Part:
        size = () if lane == ACCELERATOR else ("--size=4096",)
        cut = self._cut("--size=512", "--copied=4000000")
        return _device("rates", lane, 40, *size, *cut)

    def _throughput(
        self, name: str, lane: str, networks: str, batches: str, limit: float
    ) -> Part:
        host = lane == HOST
        tools = ("--tools=jaxcert",) if host else ()
        if self.small:
            networks, batches = networks.removesuffix(",256x6"), "8"
        return _script(
            "throughput", lane, limit, "throughput.jsonl", f"--model={networks}",
            f"--batches={batches}", *tools, f"--chunk={8 if host else 0}",
            "--methods=crown,ibp", "--seconds=0.3", "--output={out}", name=name,
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
        workers = "0" if self.small else "8"
        command = ("-m", "pytest", "-p", "device.verdicts", "--verdicts={out}")
        command += ("-n", workers, *chosen)
        environment = () if self.small else AS_USERS_DO
        return Part("tests", ACCELERATOR, command, 90, VERDICTS, environment)

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

    def _benchmark(
        self, name: str, network: str, lane: str, limit: float, each: float
    ) -> Part:
        few = {"256x2": "prop_0_0.03", "256x4": "prop_0_0.03", "": "img8194"}[network]
        return _script(
            "verify", lane, limit, "results.csv",
            f"--instances={self.pack}/vnncomp/{name}/instances.csv",
            f"--only={few if self.small else network}", f"--timeout={each}",
            "--output={out}/results.csv", name=f"{name} {network}".strip(),
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
