"""Robustness certificates for neural networks, by vectorized bound propagation.

import jaxcert as jc

jc.certify(f, params, x)          brackets, proved boxes and witnesses for inputs
jc.verify(f, params, box, spec)   PROVED, REFUTED or UNKNOWN for one box
jc.ibp(f), jc.crown(f)            bounds of any JAX function over a box
jc.attack(f)                      counterexamples inside a box
jc.load_onnx(path)                a network from an ONNX file
jc.register_rule(...)             bounds for a primitive of your own
"""

from jaxcert.api import certify as certify
from jaxcert.api import verify as verify
from jaxcert.bounds import relaxations as activations
from jaxcert.bounds.crown import CrownOptions as CrownOptions
from jaxcert.bounds.crown import crown as crown
from jaxcert.bounds.ibp import ibp as ibp
from jaxcert.bounds.rules import register_rule as register_rule
from jaxcert.box import Box as Box
from jaxcert.box import Rates as Rates
from jaxcert.certifier import Certification as Certification
from jaxcert.certifier import CertifyOptions as CertifyOptions
from jaxcert.certifier import Outcome as Outcome
from jaxcert.errors import InputError as InputError
from jaxcert.errors import JaxcertError as JaxcertError
from jaxcert.errors import UnsupportedError as UnsupportedError
from jaxcert.interop.onnx import load_onnx as load_onnx
from jaxcert.oracle.attack import AttackOptions as AttackOptions
from jaxcert.oracle.attack import attack as attack
from jaxcert.spec import Spec as Spec
from jaxcert.verdict import Reason as Reason
from jaxcert.verdict import Status as Status
from jaxcert.verdict import Verdict as Verdict

__all__ = ["Box", "Spec", "activations", "attack", "certify", "crown", "ibp",
           "load_onnx", "register_rule", "verify"]  # fmt: skip
