"""Feature-convex classifiers: certified radii in closed form, from one gradient.

A binary classifier predicts its sensitive class where f(x) = g(phi(x)) > 0, with g
convex and phi Lipschitz. Only the sensitive class is certified, against every norm at
once (Pfrommer et al., Asymmetric Certified Robustness via Feature-Convex Neural
Networks, NeurIPS 2023). `docs/asymmetric.md` states what is proved.
"""

from jaxcert.convex.answers import Radii as Radii
from jaxcert.convex.certify import certified_radii as certified_radii
from jaxcert.convex.classifier import ConvexClassifier as ConvexClassifier
from jaxcert.convex.classifier import load_classifier as load_classifier
from jaxcert.convex.classifier import save_classifier as save_classifier
from jaxcert.convex.features import CustomFeatures as CustomFeatures
from jaxcert.convex.features import Shift as Shift
from jaxcert.convex.features import ShiftAbs as ShiftAbs
from jaxcert.convex.networks import ConvexArchitecture as ConvexArchitecture
from jaxcert.convex.networks import ConvexCNN as ConvexCNN
from jaxcert.convex.networks import ConvexMLP as ConvexMLP
from jaxcert.convex.networks import project as project
from jaxcert.convex.train import ConvexTrainConfig as ConvexTrainConfig
from jaxcert.convex.train import train_classifier as train_classifier
