"""The tools that are measured side by side, each as a function of the same boxes.

A tool is asked for a method and a batch of boxes, and gives back what is to be timed: a
function without arguments that returns lower bounds, (boxes, rows), or for "complete"
the verdicts, (boxes,): 1 proved, -1 refuted, 0 unknown. None: it has no such method.
"""

from __future__ import annotations

import importlib.util

import jax
import numpy as np

from studies.throughput.case import Case, Run, Tool
from studies.throughput.with_jaxcert import jaxcert


def plain_torch(case: Case) -> Run | None:
    """Returns our own plain torch interval bounds and CROWN."""
    if case.method not in ("ibp", "crown-ibp", "crown"):
        return None
    import torch

    from studies.throughput.with_torch import Interval, TorchBounds

    device = torch_device()
    bounds = TorchBounds(case.subject.graph, case.subject.network.params, device)
    box = Interval(
        *(torch.tensor(v, device=device) for v in (case.box.lo, case.box.hi))
    )
    rows = torch.tensor(case.spec.coefficients, device=device)

    @torch.no_grad()
    def run() -> np.ndarray:
        if case.method == "ibp":
            return bounds.ibp(box, rows).cpu().numpy()
        return bounds.crown(box, rows, case.method == "crown").cpu().numpy()

    return run


def auto_lirpa(case: Case) -> Run | None:
    """Returns what auto_LiRPA does with its own defaults."""
    names = {
        "ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN",
        "alpha-crown": "CROWN-Optimized",
    }  # fmt: skip
    if case.method not in names:
        return None
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    from studies.throughput.with_torch import GraphModule

    device = torch_device()
    graph, params = case.subject.graph, case.subject.network.params
    model = GraphModule(graph, params).to(device)
    x = torch.tensor(case.x, device=device)
    options = {"iteration": case.iterations, "early_stop_patience": case.iterations}
    bounded = BoundedModule(
        model, x, bound_opts={"optimize_bound_args": options}, device=device
    )
    faces = {
        name: torch.tensor(face, device=device)
        for name, face in (("x_L", case.box.lo), ("x_U", case.box.hi))
    }
    rows = torch.tensor(case.spec.coefficients, device=device)

    def run() -> np.ndarray:
        ball = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), **faces))
        with torch.set_grad_enabled(case.method == "alpha-crown"):
            lower, _ = bounded.compute_bounds(
                x=(ball,), C=rows, method=names[case.method], bound_upper=False
            )
        return lower.detach().cpu().numpy()

    return run


def torch_device() -> str:
    """Returns where torch computes: on the same kind of device as JAX."""
    import torch

    wanted = jax.default_backend() == "gpu" and torch.cuda.is_available()
    return "cuda" if wanted else "cpu"


def marabou(case: Case) -> Run | None:
    """Returns Marabou's verdicts, one query per box and other class."""
    if case.method != "complete":
        return None
    from studies.throughput.with_marabou import oracle

    return oracle(case)


TOOLS: dict[str, tuple[str, Tool]] = {
    "jaxcert": ("jaxcert", jaxcert),
    "torch": ("torch", plain_torch),
    "auto_LiRPA": ("auto_LiRPA", auto_lirpa),
    "Marabou": ("maraboupy", marabou),
}
"""By name: the package that must be importable, and the tool."""
_NEEDS = {"auto_LiRPA": "torch"}  # which may be missing beside a checkout


def available() -> list[str]:
    """Returns the tools whose packages are importable."""
    found = importlib.util.find_spec
    return [
        name
        for name, (package, _) in TOOLS.items()
        if found(package) and (name not in _NEEDS or found(_NEEDS[name]))
    ]
