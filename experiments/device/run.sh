#!/usr/bin/env bash
# Measures the accelerator of this machine, results in $OUT; see README.md.
set -eu
cd "$(dirname "$0")/../.."
: "${OUT:?name the folder of the results: OUT=out/device $0}"
export PYTHONPATH="$PWD:$PWD/experiments:$PWD/.device/site${PYTHONPATH:+:$PYTHONPATH}"
# Several processes share the device, torch among them.
export XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1
# Parts find what others have compiled.
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1
if command -v nvidia-smi > /dev/null; then
  nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
fi
exec "${PYTHON:-python3}" -m device conduct --output="$OUT" "$@"
