"""Makes the shared case matrix importable; keeps parallel workers to a core each."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if "PYTEST_XDIST_WORKER" in os.environ:
    # Read when JAX starts its backend; scripts that a test runs inherit it.
    own = "--xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {own}".strip()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
