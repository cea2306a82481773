"""What a user runs: `jaxcert NAME`, or the same as `experiments/NAME.py`.

Importing this keeps numpy's BLAS to one thread, if numpy is not loaded yet. Its
matrices are small here, and its threads fight with those of XLA for the cores:
checking a certificate took 0.29 s instead of 0.01 s (BUILD_NOTES.md, 2026-11-20).
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
