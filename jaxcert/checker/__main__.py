"""Runs the checker: `python jaxcert/checker` or `python -m jaxcert.checker`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

_ALONE = "jaxcert_checker"


def _named() -> str:
    """Returns the name of this package; gives it one where the folder itself is run.

    Then nothing around it is imported, and `jaxcert` need not be there.
    """
    if __package__:
        return __package__
    folder = Path(__file__).resolve().parent
    # Python has put the folder on the path, where its files could pass for others.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    spec = importlib.util.spec_from_file_location(
        _ALONE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[_ALONE] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _ALONE


if __name__ == "__main__":
    # The matrices are small: threads of BLAS cost more than they save.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(importlib.import_module(f"{_named()}.command").main())
