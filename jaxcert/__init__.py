"""Robustness certificates for neural networks, by vectorized bound propagation.

import jaxcert as jc

jc.certify(f, params, x)          brackets, proved boxes and witnesses for inputs
jc.grow(answer)                   maximal boxes, from what certify recorded
jc.write_certificates(to, answer) files that jaxcert.checker checks on its own
jc.verify(f, params, box, spec)   PROVED, REFUTED or UNKNOWN for one box
jc.dual_boxes(f, params, domain)  boxes that contain every point of a class
jc.ibp(f), jc.crown(f)            bounds of any JAX function over a box
jc.alpha_crown(f)                 the tighter ones, with optimised slopes
jc.attack(f)                      counterexamples inside a box
jc.load(path)                     an answer that was saved
jc.load_onnx(path)                a network from an ONNX file
jc.register_rule(...)             bounds for a primitive of your own

A name is imported when it is first asked for: so `python -m jaxcert.checker`, which
comes through here, needs no JAX.
"""

import importlib
from typing import TYPE_CHECKING

__version__: str  # asked for, it is looked up; see below

if TYPE_CHECKING:
    from jaxcert.answer import Answer as Answer
    from jaxcert.answer import load as load
    from jaxcert.api import certify as certify
    from jaxcert.api import dual_boxes as dual_boxes
    from jaxcert.api import grow as grow
    from jaxcert.api import verify as verify
    from jaxcert.ball import Ball as Ball
    from jaxcert.bounds.alpha_crown import alpha_crown as alpha_crown
    from jaxcert.bounds.crown import CrownOptions as CrownOptions
    from jaxcert.bounds.crown import crown as crown
    from jaxcert.bounds.ibp import ibp as ibp
    from jaxcert.bounds.tighten import TightenOptions as TightenOptions
    from jaxcert.box import Box as Box
    from jaxcert.box import Rates as Rates
    from jaxcert.cache import use_compilation_cache as use_compilation_cache
    from jaxcert.certificate.folder import write_certificates as write_certificates
    from jaxcert.certificate.store import Written as Written
    from jaxcert.certification import Certification as Certification
    from jaxcert.dual_answer import DualBoxes as DualBoxes
    from jaxcert.errors import InputError as InputError
    from jaxcert.errors import JaxcertError as JaxcertError
    from jaxcert.errors import UnsupportedError as UnsupportedError
    from jaxcert.interop.onnx import load_onnx as load_onnx
    from jaxcert.options import CertifyOptions as CertifyOptions
    from jaxcert.options import Outcome as Outcome
    from jaxcert.search.dual import DualBox as DualBox
    from jaxcert.search.dual import DualOptions as DualOptions
    from jaxcert.search.growth import Growth as Growth
    from jaxcert.search.growth import GrowthOptions as GrowthOptions
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
        "jaxcert.api": ("certify", "dual_boxes", "grow", "verify"),
        "jaxcert.bounds.alpha_crown": ("alpha_crown",),
        "jaxcert.bounds.crown": ("CrownOptions", "crown"),
        "jaxcert.bounds.ibp": ("ibp",),
        "jaxcert.bounds.tighten": ("TightenOptions",),
        "jaxcert.trace.rules": ("register_rule",),
        "jaxcert.ball": ("Ball",),
        "jaxcert.box": ("Box", "Rates"),
        "jaxcert.certificate.folder": ("write_certificates",),
        "jaxcert.certificate.store": ("Written",),
        "jaxcert.cache": ("use_compilation_cache",),
        "jaxcert.answer": ("Answer", "load"),
        "jaxcert.certification": ("Certification",),
        "jaxcert.dual_answer": ("DualBoxes",),
        "jaxcert.errors": ("InputError", "JaxcertError", "UnsupportedError"),
        "jaxcert.interop.onnx": ("load_onnx",),
        "jaxcert.options": ("CertifyOptions", "Outcome"),
        "jaxcert.search.dual": ("DualBox", "DualOptions"),
        "jaxcert.search.growth": ("Growth", "GrowthOptions"),
        "jaxcert.witness.attack": ("AttackOptions", "attack"),
        "jaxcert.spec": ("Spec",),
        "jaxcert.verdict": ("Reason", "Status", "Verdict"),
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name):
        if name == "__version__":
            found = _version()
        elif name == "activations":
            found = importlib.import_module("jaxcert.trace.activations")
        elif name in _HOME:
            found = getattr(importlib.import_module(_HOME[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found  # asked for once
        return found

    def _version():
        from importlib import metadata

        try:
            return metadata.version("jaxcert")
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            return "unknown"

    def __dir__():
        return sorted({*globals(), *_HOME, "activations"})


__all__ = [
    "Answer", "AttackOptions", "Ball", "Box", "Certification", "CertifyOptions",
    "CrownOptions", "DualBox", "DualBoxes", "DualOptions", "Growth", "GrowthOptions",
    "InputError", "JaxcertError", "Outcome", "Rates", "Reason", "Spec", "Status",
    "TightenOptions", "UnsupportedError", "Verdict", "Written", "activations",
    "alpha_crown", "attack", "certify", "crown", "dual_boxes", "grow", "ibp", "load",
    "load_onnx", "register_rule", "use_compilation_cache", "verify",
    "write_certificates",
]  # fmt: skip
