"""Randomized smoothing: l2 and l1 certificates that hold with high probability.

from jaxcert import smoothing

smoothing.certify(f, params, key, x, options)       class and radius, or abstention
smoothing.certify_harmless(generated, ...)          how often outputs can be harmful
smoothing.Generated(generate, label, num_classes)   generated outputs and their oracle
smoothing.estimate_oracle_error(wrong, labelled)    eps, from labelled outputs
smoothing.samples_needed(radius, agreement, ...)    plans, before samples are drawn
"""

from jaxcert.smoothing.answers import ABSTAINED as ABSTAINED
from jaxcert.smoothing.answers import HarmlessCertificates as HarmlessCertificates
from jaxcert.smoothing.answers import SmoothedCertificates as SmoothedCertificates
from jaxcert.smoothing.binomial import least_samples as least_samples
from jaxcert.smoothing.binomial import lower_bound as lower_bound
from jaxcert.smoothing.binomial import upper_bound as upper_bound
from jaxcert.smoothing.certify import certify as certify
from jaxcert.smoothing.certify import certify_harmless as certify_harmless
from jaxcert.smoothing.certify import conclude as conclude
from jaxcert.smoothing.certify import conclude_harmless as conclude_harmless
from jaxcert.smoothing.noise import Gaussian as Gaussian
from jaxcert.smoothing.noise import Laplace as Laplace
from jaxcert.smoothing.noise import Noise as Noise
from jaxcert.smoothing.noise import Uniform as Uniform
from jaxcert.smoothing.options import Generated as Generated
from jaxcert.smoothing.options import OracleError as OracleError
from jaxcert.smoothing.options import SmoothingOptions as SmoothingOptions
from jaxcert.smoothing.options import Stopping as Stopping
from jaxcert.smoothing.options import estimate_oracle_error as estimate_oracle_error
from jaxcert.smoothing.options import on_host as on_host
from jaxcert.smoothing.planner import expected_radius as expected_radius
from jaxcert.smoothing.planner import largest_radius as largest_radius
from jaxcert.smoothing.planner import mean_radius as mean_radius
from jaxcert.smoothing.planner import samples_needed as samples_needed
from jaxcert.smoothing.planner import scaling as scaling
from jaxcert.smoothing.planner import success_probability as success_probability
from jaxcert.smoothing.smoother import Smoother as Smoother
from jaxcert.smoothing.smoother import Tally as Tally
