"""Compiling programs quickly rather than well; imported before JAX is."""

from __future__ import annotations

from importlib import metadata

# Of jaxlib 0.10 alone: another one ends the process at a flag that it does not know.
FUSION = "xla_cpu_use_fusion_emitters"
HAS_FUSION = metadata.version("jaxlib").startswith("0.10.")
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
AS_USERS_DO: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
"""Compiler options that undo the haste of FLAGS."""
if HAS_FUSION:
    FLAGS += f" --{FUSION}=false"
    AS_USERS_DO[FUSION] = True
