"""Keeping compiled programs from one process to the next."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def use_compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path:
    """Keeps what is compiled in a folder, for later processes; returns the folder.

    Compiling is what the first call of a process takes most of its time for. Call this
    once, before anything is computed. The commands do so by themselves; the library
    never changes a setting of JAX unless it is asked to, as here.

    Args:
      folder: where; None for `$JAX_COMPILATION_CACHE_DIR`, else a folder `jaxcert` in
        the user's cache (`$XDG_CACHE_HOME` or `~/.cache`).

    Example:
      >>> import jaxcert as jc
      >>> folder = jc.use_compilation_cache()
    """
    chosen = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        chosen = Path(home) / "jaxcert" / "xla"
    path = Path(chosen).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(path))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return path
