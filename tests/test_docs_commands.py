"""Every command line of the README and the documentation runs, with small counts.

What a page prints is what is run: flags that make a line small are appended, for the
later of two counts. Lines that are not run are in `NOT_HERE`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from pages import COMMAND_LINES, ROOT, SHARED
from PIL import Image
from tiny import Tiny

from jaxcert.learning.architecture import Architecture
from jaxcert.learning.data import load_dataset
from jaxcert.learning.models import build, export_onnx, save_checkpoint, to_network
from jaxcert.network import Network

# Lines that no test runs here, and why.
NOT_HERE = {
    r"^(make (test|lint|docs)$)": "they are what .ci/run runs",
    r"^(git clone|cd|python3 -m venv|\S*pip) ": "they fetch and install",
}
# What is said beside what is printed, so that a line takes seconds.
SHORTER = {
    r"certify .*--model=NET.onnx --inputs=PHOTOS": "--oracle=crown",
    r"certify .*--dataset=fashion_mnist --data_dir": "--inputs=0:2 --oracle=ibp",
    r"certify .*--inputs=all": "--dataset=fashion_mnist --inputs=0:4 --oracle=ibp",
    r"certify .*photos.npz": "--oracle=crown",
    r"certify --inputs=0:20": "--inputs=0:2 --oracle=ibp",
    r"dual ": "--inputs=0:1 --tolerance=0.1 --time_limit=20",
    r"tabular ": "--inputs=0:1 --epochs=5 --time_limit=5",
    r"train .*--sigma": "--epochs=1 --limit=16 --warmup_epochs=0 --ramp_epochs=0",
    r"train ": "--epochs=1 --limit=256 --warmup_epochs=0 --ramp_epochs=0",
    r"sweep ": "--limit=256",
    r"smoothing ": "--inputs=0:2 --n=200",
    r"semantic ": "--inputs=0:1 --changes=brightness --grid=9",
    r"asymmetric": "--methods=convex --inputs=0:4 --epochs=1 --validation=20 "
    "--attacks=2",
    r"throughput": "--model=784-32-10 --methods=ibp --batches=1 --seconds=0.01",
    r"relaxations.*--laws": "--laws=2",
    r"relaxations": "--inputs=0:1 --methods=crown,triangle --timeout=5",
    r"growth": "--methods=ibp --seconds=0.001",
    r"prune": "--seeds=1 --images=128 --inputs=1 --epochs=1 --rounds=1",
    r"captioner": "--inputs=0:1 --n=50 --n0=10 --labelled=40 --epochs=1",
}
# What stands for "...".
FILLED = {
    r"^jaxcert certify (--oracle|--cuts)": "--model=SMALL.onnx --inputs=PHOTOS",
    r"^jaxcert verify --cuts": "--onnx=SMALL.onnx --vnnlib=PROPERTY.vnnlib",
    r"^jaxcert certify \.\.\.": "--model=NET.onnx --dataset=fashion_mnist "
    "--inputs=0:4 --batch_size=1 --oracle=ibp",
}


@dataclasses.dataclass(frozen=True)
class Page:
    """What the lines of a page need.

    Attributes:
      mnist: MNIST or Fashion-MNIST, from ../shared/data.
      large: NET.onnx takes their images, of 28 by 28, and not those of PHOTOS.
      before: a line of another page, which this one takes for done.
    """

    mnist: bool = False
    large: bool = False
    before: str | None = None


NEEDS = {
    "asymmetric.md": Page(mnist=True),
    "certificates.md": Page(
        before="jaxcert certify --model=NET.onnx --inputs=PHOTOS --proofs "
        "--output=out/certify"
    ),
    "commands.md": Page(
        mnist=True,
        before="jaxcert train --channels=16,32 --sigma=0.25 --output=out/noise.npz",
    ),
    "relaxations.md": Page(mnist=True, large=True),
    "scale.md": Page(mnist=True, large=True),
    "semantic.md": Page(mnist=True),
    "smoothing.md": Page(mnist=True),
}


def wanted(line: str) -> bool:
    """Returns whether a line is one to run here."""
    return not any(re.search(pattern, line) for pattern in NOT_HERE)


# The lines to run, by page.
LINES = {
    page: [line for _, line in pairs if wanted(line)]
    for page, pairs in itertools.groupby(COMMAND_LINES, lambda pair: pair[0])
}


def untrained(kind: str, **sizes: tuple[int, ...]) -> Network:
    architecture = Architecture(kind, (28, 28, 1), **sizes)
    return to_network(build(architecture, nnx.Rngs(0)), architecture, "untrained")


def named_in_pages(folder: Path, tiny: Tiny, page: str) -> None:
    """Writes the files that the command lines of a page name."""
    (folder / "SMALL.onnx").symlink_to(tiny.onnx)
    (folder / "NET.onnx").symlink_to(tiny.onnx)
    if NEEDS.get(page, Page()).large:
        (folder / "NET.onnx").unlink()
        export_onnx(folder / "NET.onnx", untrained("mlp", hidden=(16,)))
    save_checkpoint(folder / "NET.npz", untrained("cnn", channels=(4, 4)))
    digits = load_dataset("digits", "test")
    images, labels = digits.images[:4], digits.labels[:4]
    parts = ("train", "test") if page == "data.md" else ("",)
    for part, (row, label) in itertools.product(parts, enumerate(labels)):
        own = folder / "PHOTOS" / part / str(label)
        own.mkdir(parents=True, exist_ok=True)
        pixels = np.uint8(np.round(255 * images[row, ..., 0]))
        Image.fromarray(pixels).save(own / f"{row}.png")
    near = {"lo": np.maximum(images - 0.01, 0), "hi": np.minimum(images + 0.01, 1)}
    np.savez(folder / "BOXES.npz", x=images, **near)
    names = [f"(declare-const X_{k} Real)" for k in range(64)]
    names += [f"(declare-const Y_{k} Real)" for k in range(10)]
    ends = zip(near["lo"][0].ravel(), near["hi"][0].ravel(), strict=True)
    box = [
        f"(assert (>= X_{k} {lo:.9f})) (assert (<= X_{k} {hi:.9f}))"
        for k, (lo, hi) in enumerate(ends)
    ]
    box.append(f"(assert (>= Y_{(labels[0] + 1) % 10} Y_{labels[0]}))")
    (folder / "PROPERTY.vnnlib").write_text("\n".join(names + box))
    (folder / "instances.csv").write_text("NET.onnx,PROPERTY.vnnlib,60\n")
    other = "small,NET.onnx,PROPERTY.vnnlib,0.5,unsat,1.5\n"
    (folder / "OTHER_TOOL.csv").write_text(other)
    rows = [f"{k % 7},{k % 5},{'ripe' if k % 7 > 3 else 'green'}" for k in range(60)]
    (folder / "TABLE.csv").write_text("\n".join(["weight,age,class", *rows]))
    # What a reader has cloned, and the folder of the data sets.
    for name in ("experiments", "jaxcert"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "BENCHMARK").symlink_to(folder)
    if page != "scale.md" and SHARED.is_dir():
        (folder / "DIR").symlink_to(SHARED)


def whole(line: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Returns the words of a line as a test runs it, and variables it needs."""
    said = line.removeprefix(".venv/bin/")
    if "..." in said:
        (fill,) = (f for pattern, f in FILLED.items() if re.search(pattern, said))
        said = said.replace("...", fill)
    more = (f for pattern, f in SHORTER.items() if re.search(pattern, said))
    said = f"{said} {next(more, '')}".replace("HOST:PORT", f"localhost:{port}")
    own: dict[str, str] = {}
    if said.startswith("srun "):  # what a cluster of one node would tell its task
        # The way that the page shows next writes shards into DIR, too.
        said = said.removeprefix("srun ").replace("--output=DIR", "--output=SLURM")
        own = {
            "SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
        }  # fmt: skip
    name, *words = shlex.split(said)
    if name == "make":  # without the installation
        return [name, f"--file={ROOT / 'Makefile'}", *words, "READY=",
                f"RUN={sys.executable}"], own  # fmt: skip
    assert name in ("jaxcert", "python"), line
    module = ["-m", "jaxcert.commands"] if name == "jaxcert" else []
    return [sys.executable, *module, *words], own


def all_processes(lines: list[str]) -> Iterator[str]:
    """Yields the lines; of four processes that a page starts by hand it prints two."""
    for line in lines:
        yield line
        if "--process=1" in line:
            for i in (2, 3):
                yield line.replace("--process=1", f"--process={i}")


def run(folder: Path, lines: list[str]) -> None:
    """Runs lines in a folder, those that are processes of one run side by side."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # Compiled as users do: what the tests compile in haste convolves slowly.
    given = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    if SHARED.is_dir():
        given["JAXCERT_DATA_DIR"] = str(SHARED)

    def start(line: str) -> subprocess.Popen[str]:
        words, own = whole(line, port)
        return subprocess.Popen(
            words, cwd=folder, env=os.environ | given | own, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    for together, group in itertools.groupby(lines, lambda line: "--process=" in line):
        for some in [list(group)] if together else ([line] for line in group):
            for line, process in [(line, start(line)) for line in some]:
                said, _ = process.communicate()
                assert process.returncode == 0, f"{line}:\n{said[-2000:]}"
                assert "Traceback" not in said, f"{line}:\n{said[-2000:]}"


@pytest.mark.campaign
@pytest.mark.parametrize("page", [page for page, lines in LINES.items() if lines])
def test_commands_run_as_they_are_printed(page: str, tiny: Tiny, tmp_path: Path):
    needs = NEEDS.get(page, Page())
    if needs.mnist and not SHARED.is_dir():
        pytest.skip("needs MNIST and Fashion-MNIST in ../shared/data")
    named_in_pages(tmp_path, tiny, page)
    before = [needs.before] if needs.before else []
    run(tmp_path, [*before, *all_processes(LINES[page])])


def test_every_line_can_be_run_or_it_is_said_why_not():
    left = {line for _, line in COMMAND_LINES if not wanted(line)}
    for line in left:
        assert line.split()[0].removeprefix(".venv/bin/") in (
            "make", "git", "cd", "python3", "pip",
        ), line  # fmt: skip
    for line in (line for lines in LINES.values() for line in lines):
        words, _ = whole(line, 1)
        assert "..." not in words
    both = [*NOT_HERE, *SHORTER, *FILLED]
    for pattern in both:
        assert any(re.search(pattern, line) for _, line in COMMAND_LINES), pattern
    ci, makefile = ((ROOT / name).read_text() for name in (".ci/run", "Makefile"))
    (all_tests,) = re.findall(r"^test-all:.*\n((?:\t.*\n)+)", makefile, re.M)
    for line in left:
        if line.startswith("make "):
            assert line in ci or line.split()[1] in all_tests.split()
