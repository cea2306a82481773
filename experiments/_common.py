"""What every experiment script shares: flags, errors, compilation cache."""

from __future__ import annotations

import logging as python_logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging

from jaxcert.errors import JaxcertError


Main = Callable[[Sequence[str]], int | None]


def run(main: Main) -> None:
    """Runs `main` on the parsed flags and exits with its code.

    A mistake of the user's is one line on stderr and exit code 1 (see `guarded`); a
    malformed flag one line and exit code 2.
    """
    app.run(guarded(main), flags_parser=_parse_flags)


def guarded(main: Main) -> Main:
    """Returns `main` with JaxcertError and OSError turned into a line and code 1."""

    def wrapped(argv: Sequence[str]) -> int | None:
        logging.use_absl_handler()
        # It reports every kind of accelerator that this machine does not have.
        python_logging.getLogger("jax._src.xla_bridge").setLevel(python_logging.ERROR)
        _use_compilation_cache()
        try:
            if len(argv) > 1:
                raise JaxcertError(
                    f"unexpected argument {argv[1]!r}; options are written --name=value"
                )
            return main(argv)
        except (JaxcertError, OSError) as error:
            print(f"error: {_one_line(error)}", file=sys.stderr)
            return 1

    return wrapped


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except flags.Error as error:
        print(f"error: {_one_line(error)} (see --help)", file=sys.stderr)
        sys.exit(2)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the user chose where already."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(home) / "jaxcert" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
