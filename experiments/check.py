"""Checks certificates by a small program that shares no code with the search.

    python experiments/check.py out/certify
    python experiments/check.py out/certify/proofs/7.npz --exact

The same as `python jaxcert/checker`, which needs nothing but numpy.
"""

from __future__ import annotations

import sys

import _threads  # noqa: F401  # before numpy

from jaxcert.checker.command import main

if __name__ == "__main__":
    sys.exit(main())
