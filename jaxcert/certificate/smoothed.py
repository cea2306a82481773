"""Smoothed answers as files, which the checker derives again from their counts."""

from __future__ import annotations

import io
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

from jaxcert.checker.check import check_certificate
from jaxcert.checker.claim import SmoothedReport
from jaxcert.runs.files import write_atomically
from jaxcert.smoothing import lower_bound
from jaxcert.smoothing.answers import SmoothedCertificates
from jaxcert.smoothing.options import OracleError, SmoothingOptions

_EXACT = OracleError()


def write_smoothed(
    path: Path,
    found: SmoothedCertificates,
    options: SmoothingOptions,
    network: str,
    oracle: OracleError = _EXACT,
) -> SmoothedReport:
    """Writes answers into one file and returns what the checker says of them.

    A file that it does not accept is removed; one that claims nothing stays.

    Args:
      path: of the file, .npz; its folder is made if missing.
      found: what `conclude` said with these options and that oracle.
      options: noise, samples, alpha.
      network: sha256 of what was smoothed, hex.

    Raises:
      OSError: the folder cannot be written.
    """
    noise, count = options.noise, len(found.hits)
    head = {
        "format": "jaxcert certificate",
        "version": 4,
        "tool": f"jaxcert {version('jaxcert')}",
        "claim": "smoothed",
        "network": {"sha256": network},
        "noise": type(noise).__name__.lower(),
        "scale": float(np.float32(noise.scale)),
        "alpha": float(options.alpha),
        "oracle_alpha": float(oracle.alpha),
        "looks": [int(n) for n in options.looks()],
    }
    p = lower_bound(found.hits, found.samples, options.alpha_per_look())
    arrays = {
        "selected": np.asarray(found.selected, np.int32),
        "hits": np.asarray(found.hits, np.int32),
        "samples": np.asarray(found.samples, np.int32),
        "eps": np.array(oracle.of(count), np.float64),
        "p": np.asarray(p, np.float64),
        "radius": np.asarray(found.radius, np.float64),
    }
    header, packed = np.frombuffer(json.dumps(head).encode(), np.uint8), io.BytesIO()
    np.savez_compressed(packed, header=header, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".unchecked-{path.name}")
    write_atomically(temporary, packed.getvalue())
    try:
        report = check_certificate(temporary)
        assert isinstance(report, SmoothedReport)
        if report.holds:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return report
