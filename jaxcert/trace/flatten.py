"""Flattener: a jaxpr becomes a list of equations, and what is constant is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from jaxcert.errors import UnsupportedError
from jaxcert.trace import control_flow, typed_steps
from jaxcert.trace.equations import (
    UNKNOWN_LINE,
    Equation,
    Values,
    open_jaxpr,
    source_line,
    sub_jaxprs,
)
from jaxcert.trace.floats import is_low

_FOLD_LIMIT = 1 << 16


_INLINED = (
    "jit pjit closed_call core_call remat checkpoint remat2 custom_jvp_call "
    "custom_vjp_call custom_vjp_call_jaxpr custom_lin"
).split()


_CONTROL_FLOW = ("scan", "while", "cond")


_EXACT_ALGORITHMS = ("DEFAULT", "F32_F32_F32", "F64_F64_F64")


class Flattener:
    """Inlines a jaxpr into equations over value ids, folding what is constant."""

    def __init__(self) -> None:
        self.known: Values = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.types: dict[int, Any] = {}
        self.param_steps: list[Equation] = []
        self.equations: list[Equation] = []
        self.inexact: set[int] = set()
        self.coarse: set[int] = set()
        self.assumptions: list[str] = []
        self._depends_on_x: set[int] = set()
        # What jit compiles knows no line outside itself: its caller stands in.
        self._caller = UNKNOWN_LINE

    def new(
        self, shape: Sequence[int], dtype: Any = None, *, depends_on_x: bool = False
    ) -> int:
        """Returns a fresh value id of that shape; the type is that of the trace."""
        value = len(self.shapes)
        self.shapes[value] = tuple(shape)
        self.types[value] = dtype
        if depends_on_x:
            self._depends_on_x.add(value)
        return value

    def constant(self, array: Any) -> int:
        """Returns the id of a new known constant."""
        value = self.new(np.shape(array), jnp.result_type(array))
        self.known[value] = array
        return value

    def depends_on_x(self, value: int) -> bool:
        """Returns whether a value depends on x."""
        return value in self._depends_on_x

    def assume(self, text: str) -> None:
        """Adds an assumption, once."""
        if text not in self.assumptions:
            self.assumptions.append(text)

    def inline(self, jaxpr: Any, consts: Sequence[Any], inputs: list[int]) -> list[int]:
        """Appends the equations of a jaxpr and returns the ids of its results."""
        names: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            names[var] = self.constant(const)

        def read(atom: Any) -> int:
            if isinstance(atom, jex.Literal):
                kind: Any = atom.aval  # an array's: scalars too have a dtype
                return self.constant(np.asarray(atom.val, kind.dtype))
            return names[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            for var, i in zip(eqn.outvars, self._apply(eqn, operands), strict=True):
                names[var] = i
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: Any, operands: list[int]) -> list[int]:
        if eqn.primitive.name in _INLINED:
            (sub, *_) = sub_jaxprs(eqn.params)
            jaxpr, consts = open_jaxpr(sub)
            caller, self._caller = self._caller, source_line(eqn, self._caller)
            results = self.inline(jaxpr, consts, operands)
            self._caller = caller
            return results
        if eqn.primitive.name in ("stop_gradient", "copy", "copy_p"):
            return operands
        moves = any(i in self._depends_on_x for i in operands)
        if moves and eqn.primitive.name in _CONTROL_FLOW:
            return self._written_out(eqn, operands)
        outputs = [
            self.new(var.aval.shape, var.aval.dtype, depends_on_x=moves)
            for var in eqn.outvars
        ]
        equation = Equation(
            eqn.primitive, tuple(operands), tuple(outputs), dict(eqn.params),
            source_line(eqn, self._caller),
            tuple(var.aval.dtype for var in eqn.invars),
            tuple(var.aval.dtype for var in eqn.outvars),
        )  # fmt: skip
        _refuse_low_algorithm(equation)
        if moves:
            self.equations.append(equation)
        elif not self._fold(equation, eqn.outvars):
            self.param_steps.append(equation)
            self._note_rounding(equation)
        return outputs

    def _written_out(self, eqn: Any, operands: list[int]) -> list[int]:
        """Appends what a loop or a branch computes, without the loop or branch."""
        where = source_line(eqn, self._caller)

        def inline(closed: Any, inputs: Sequence[int]) -> list[int]:
            caller, self._caller = self._caller, where
            results = self.inline(*open_jaxpr(closed), list(inputs))
            self._caller = caller
            return results

        if eqn.primitive.name == "while":
            return control_flow.run_while(eqn, where, operands, inline, self.known.get)
        if eqn.primitive.name == "scan":
            return inline(control_flow.scan(eqn, where), operands)
        which, *rest = operands
        if which in self.known:
            return inline(control_flow.chosen(eqn, self.known[which]), rest)
        predicate = self._truth_of(which) if len(eqn.params["branches"]) == 2 else which
        shape, dtype = self.shapes[predicate], self.types[predicate]
        asked = jax.ShapeDtypeStruct(shape, dtype)
        return inline(control_flow.selection(eqn, asked), [predicate, *rest])

    def _truth_of(self, number: int) -> int:
        """Returns the truth value that was made a number of, if one was."""
        for equation in reversed(self.equations):
            if number in equation.outputs:
                made = equation.name == "convert_element_type"
                truth = made and jnp.issubdtype(equation.input_types[0], jnp.bool_)
                return equation.inputs[0] if truth else number
        return number

    def _note_rounding(self, step: Equation) -> None:
        """Learns which values a parameter step rounds, or that nobody knows."""
        if not typed_steps.is_modelled(step, self.inexact):
            self.assume(
                f"weights computed by '{step.name}' ({step.where}) are taken as "
                "computed there: how far another run would round them is not known"
            )
        elif typed_steps.is_inexact(step, self.inexact):
            self.inexact.update(step.outputs)
            narrow = any(is_low(t) for t in step.output_types)
            if narrow or any(i in self.coarse for i in step.inputs):
                # Too much to be a slack: it becomes noise (Builder.affine).
                self.coarse.update(step.outputs)

    def _fold(self, equation: Equation, outvars: Sequence[Any]) -> bool:
        small = sum(var.aval.size for var in outvars) <= _FOLD_LIMIT
        known = all(i in self.known for i in equation.inputs)
        if equation.nested or not small or not known:
            return False
        with jax.ensure_compile_time_eval():
            operands = [jax.device_put(self.known[i]) for i in equation.inputs]
            results = equation.primitive.bind(*operands, **equation.params)
        results = results if equation.primitive.multiple_results else [results]
        for i, result in zip(equation.outputs, results, strict=True):
            self.known[i] = np.asarray(result)
        return True

    def scalar(self, value: int) -> float | None:
        """Returns the number a value is known to be everywhere, or None."""
        array = self.known.get(value)
        if array is None or array.size == 0:
            return None
        first = array.reshape(-1)[0]
        return float(first) if np.all(array == first) else None


def _refuse_low_algorithm(equation: Equation) -> None:
    """`Equation.bind` computes at the highest precision: it must not do so unasked."""
    asked = equation.params.get("precision")
    for one in asked if isinstance(asked, tuple) else (asked,):
        if one is None or isinstance(one, jax.lax.Precision):
            continue
        name = getattr(one, "name", str(one))
        if name not in _EXACT_ALGORITHMS:
            raise UnsupportedError(
                f"'{equation.name}' ({equation.where}) asks for the algorithm {name}, "
                "whose rounding is not modelled. Ask for precision='highest', or cast "
                "the operands to the type you mean"
            )
