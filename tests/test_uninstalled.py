"""A checkout that is not installed works, as on machines with nothing but a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONE = """
import importlib.metadata
import sys
from pathlib import Path

known = importlib.metadata.version

def version(name):
    if name == "jaxcert":
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)

importlib.metadata.version = version

import numpy as np

import jaxcert as jc
from jaxcert.certificate.checked import write_checked

assert jc.__version__ == "unknown"
report, size = write_checked(Path(sys.argv[1]) / "one.npz", {"version": 1}, {})
print(report.holds, size > 0, (Path(sys.argv[1]) / "one.npz").exists())
"""


def test_a_checkout_that_is_not_installed_writes_certificates(tmp_path: Path):
    given = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", ONE, str(tmp_path)],
        env=given, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    # Nothing is in this one: what counts is that it gets as far as the checker.
    assert run.stdout.split() == ["False", "True", "False"], run.stderr[-2000:]
