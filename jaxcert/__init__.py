"""Robustness certificates for neural networks, by vectorized bound propagation.

import jaxcert as jc

jc.certify(f, params, x)          brackets, proved boxes and witnesses for inputs
jc.verify(f, params, box, spec)   PROVED, REFUTED or UNKNOWN for one box
jc.ibp(f), jc.crown(f)            bounds of any JAX function over a box
jc.attack(f)                      counterexamples inside a box
jc.load_onnx(path)                a network from an ONNX file
jc.register_rule(...)             bounds for a primitive of your own

A name is imported when it is first asked for: so `python -m jaxcert.checker`, which
comes through here, needs no JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcert.api import certify as certify
    from jaxcert.api import verify as verify
    from jaxcert.bounds.crown import CrownOptions as CrownOptions
    from jaxcert.bounds.crown import crown as crown
    from jaxcert.bounds.ibp import ibp as ibp
    from jaxcert.box import Box as Box
    from jaxcert.box import Rates as Rates
    from jaxcert.certifier import Certification as Certification
    from jaxcert.certifier import CertifyOptions as CertifyOptions
    from jaxcert.certifier import Outcome as Outcome
    from jaxcert.errors import InputError as InputError
    from jaxcert.errors import JaxcertError as JaxcertError
    from jaxcert.errors import UnsupportedError as UnsupportedError
    from jaxcert.interop.onnx import load_onnx as load_onnx
    from jaxcert.spec import Spec as Spec
    from jaxcert.trace import activations
    from jaxcert.trace.rules import register_rule as register_rule
    from jaxcert.verdict import Reason as Reason
    from jaxcert.verdict import Status as Status
    from jaxcert.verdict import Verdict as Verdict
    from jaxcert.witness.attack import AttackOptions as AttackOptions
    from jaxcert.witness.attack import attack as attack
else:
    # The same names for the interpreter; to a type checker this would be any name.
    _HOMES = {
        "jaxcert.api": ("certify", "verify"),
        "jaxcert.bounds.crown": ("CrownOptions", "crown"),
        "jaxcert.bounds.ibp": ("ibp",),
        "jaxcert.trace.rules": ("register_rule",),
        "jaxcert.box": ("Box", "Rates"),
        "jaxcert.certifier": ("Certification", "CertifyOptions", "Outcome"),
        "jaxcert.errors": ("InputError", "JaxcertError", "UnsupportedError"),
        "jaxcert.interop.onnx": ("load_onnx",),
        "jaxcert.witness.attack": ("AttackOptions", "attack"),
        "jaxcert.spec": ("Spec",),
        "jaxcert.verdict": ("Reason", "Status", "Verdict"),
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name):
        if name == "activations":
            found = importlib.import_module("jaxcert.trace.activations")
        elif name in _HOME:
            found = getattr(importlib.import_module(_HOME[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found  # asked for once
        return found

    def __dir__():
        return sorted({*globals(), *_HOME, "activations"})


__all__ = ["Box", "Spec", "activations", "attack", "certify", "crown", "ibp",
           "load_onnx", "register_rule", "verify"]  # fmt: skip
