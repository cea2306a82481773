"""Pinned: a user's function, as it was when it was handed over.

A function is traced once and compiled once for every shape. What it closes over, and
the global names that it reads, are in the trace: a notebook that sets one of them anew
and asks again must not be answered about the function of before. So functions are told
apart by what they are made of, and not by their identity. Then a cell that is run again
also finds its compiled programs.

The user's own settings of JAX are pinned as well: strict promotion of ranks and types
holds while f is traced, and not for the library's own arithmetic.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import dataclasses
import enum
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np

from jaxcert.errors import InputError
from jaxcert.trace.rules import registered

# Objects that are looked into; who is made of more is compiled anew at every call.
_MOST, _DEEPEST = 20_000, 100
_PRIVATE = ("__dict__", "__weakref__", "__doc__", "__module__", "_abc_impl")
_SCALARS = (bool, int, str, bytes, type(None), type(Ellipsis), np.dtype, range)
_INSTALLED = ("site-packages", "dist-packages", sysconfig.get_paths()["stdlib"])


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Runs the block under the settings of JAX that the library is written for.

    Bounds use NaN for what is unknown and infinity for what is unbounded, and combine
    arrays of different ranks. Settings are those of a thread.
    """
    outermost = None if _asked_under.get() else _asked_under.set(_strictness())
    with (
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        # Else GPUs round the factors of float32 products to 10 bits (TF32).
        jax.default_matmul_precision("highest"),
    ):
        try:
            yield
        finally:
            if outermost is not None:
                _asked_under.reset(outermost)


def _strictness() -> tuple[str, str]:
    config: Any = jax.config
    return config.jax_numpy_rank_promotion, config.jax_numpy_dtype_promotion


_asked_under: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar(
    "asked_under", default=None
)
"""Promotion of ranks and types as the caller of the library has it."""


def asks_strict_types() -> bool:
    """Returns whether the caller of the library lets no types be mixed."""
    return (_asked_under.get() or _strictness())[1] == "strict"


def pinned(f: Callable[..., Any]) -> Pinned:
    """Returns f with the caller's promotion settings; equal for functions made alike.

    Functions, partial functions, bound methods and callable objects are compared by
    code, default values, closure, the global names they read and the attributes of
    objects they reach; numpy arrays by their content, JAX arrays by identity.

    Raises:
      InputError: f cannot be called.
    """
    if isinstance(f, Pinned):
        return f
    if not callable(f):
        raise InputError(
            f"f must be a function f(params, x), got {type(f).__name__}: pass the "
            "network's apply function, and its weights as params"
        )
    return Pinned(f, _asked_under.get() or _strictness())


class Pinned:
    """A function and the settings it is traced under; hashable by what it is made of.

    Attributes:
      f: the function.
      key: what it is compared by.
    """

    def __init__(self, f: Callable[..., Any], strictness: tuple[str, str]) -> None:
        self.f = f
        self._strictness: Any = strictness
        self._made_of = _made_of(f)
        told = self._made_of if self._made_of is not None else _Same(self)
        self.key = told, strictness, registered()
        self._hash = hash(self.key)

    @property
    def name(self) -> str:
        """What f is called."""
        return _name(self.f)

    def __call__(self, *arguments: Any) -> Any:
        """Returns f's result; called while f is traced.

        Raises:
          InputError: what f is made of is no longer what it was compared by.
        """
        if self._made_of is not None and _made_of(self.f) != self._made_of:
            raise InputError(
                f"{_name(self.f)} changed after it was handed over: a value that it "
                "closes over or reads was set anew. Hand it over again, or pass what "
                "changes in params"
            )
        rank, dtype = self._strictness
        with jax.numpy_rank_promotion(rank), jax.numpy_dtype_promotion(dtype):
            result = self.f(*arguments)
        self._made_of = _made_of(self.f)  # f may count its own calls
        return result

    def __eq__(self, other: object) -> bool:
        """Whether both are made alike and traced under the same settings."""
        return isinstance(other, Pinned) and self.key == other.key

    def __hash__(self) -> int:
        """Consistent with equality."""
        return self._hash


def _name(f: Any) -> str:
    return getattr(f, "__qualname__", type(f).__name__)


class _Same:
    """Compares by identity, and keeps what it compares alive."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _made_of(f: Any) -> Hashable:
    """Returns what f is compared by; None where that is too much to look at."""
    walk = _Walk()
    key = walk.key(f)
    return None if walk.exhausted else key


class _Walk:
    """One walk over what a function reaches."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}
        self._depth = 0
        self.exhausted = False

    def key(self, value: Any) -> Hashable:
        if isinstance(value, float | complex):  # 0.0 is not -0.0, and NaN is NaN
            return type(value), repr(value)
        if isinstance(value, _SCALARS):
            return type(value), value
        if id(value) in self._seen:
            return "seen before", self._seen[id(value)][0]
        self.exhausted |= len(self._seen) >= _MOST or self._depth >= _DEEPEST
        if self.exhausted:
            return None
        self._seen[id(value)] = len(self._seen), value
        self._depth += 1
        key = self._compound(value)
        self._depth -= 1
        return key

    def _compound(self, value: Any) -> Hashable:
        match value:
            case Pinned():
                return value.key
            case np.ndarray() | np.generic() if value.dtype != object:
                digest = hashlib.blake2b(np.ascontiguousarray(value).tobytes())
                return type(value), value.dtype.str, value.shape, digest.digest()
            case np.ndarray():
                return "objects", value.shape, self.key(value.tolist())
            case jax.Array() | types.ModuleType() | enum.Enum():
                return _Same(value)
            case type():
                return self._class(value)
            case types.FunctionType():
                return self._function(value)
            case types.MethodType():
                return "method", self.key(value.__func__), self.key(value.__self__)
            case functools.partial():
                parts = value.func, value.args, value.keywords
                return "partial", tuple(self.key(v) for v in parts)
            case tuple() | list() | collections.deque():
                return type(value), tuple(self.key(v) for v in value)
            case dict():
                items = ((self.key(k), self.key(v)) for k, v in value.items())
                return type(value), tuple(items)
            case set() | frozenset():
                return type(value), tuple(sorted(map(repr, value))), _Same(value)
        return self._object(value)

    def _function(self, f: types.FunctionType) -> Hashable:
        cells = [_content(cell) for cell in f.__closure__ or ()]
        parts = f.__defaults__, f.__kwdefaults__, cells, vars(f)
        code = _code_key(f.__code__)
        return "function", code, *map(self.key, parts), self._globals(f)

    def _class(self, kind: type) -> Hashable:
        if _is_installed(_file(sys.modules.get(kind.__module__))):
            return _Same(kind)
        # Methods, and constants that they read; not what Python keeps there.
        held = {n: v for n, v in vars(kind).items() if n not in _PRIVATE}
        return _Same(kind), tuple((n, self.key(v)) for n, v in held.items())

    def _globals(self, f: types.FunctionType) -> Hashable:
        """What a function reads from its module, and from other modules of the user."""
        if _is_installed(f.__code__.co_filename):
            return None
        names = sorted(_names(f.__code__))
        read = {n: f.__globals__[n] for n in names if n in f.__globals__}
        modules = [v for v in read.values() if isinstance(v, types.ModuleType)]
        for module in modules:
            if not _is_installed(_file(module)):
                there = vars(module)
                found = {n: there[n] for n in names if n in there}
                read |= {f"{module.__name__}.{n}": v for n, v in found.items()}
        return tuple((n, self.key(v)) for n, v in read.items())

    def _object(self, value: Any) -> Hashable:
        kind: Any = type(value)
        if dataclasses.is_dataclass(value):
            fields = [f.name for f in dataclasses.fields(value) if f.compare]
            held = {n: getattr(value, n, None) for n in fields}
        else:
            held = _attributes(value)
        parts = tuple((n, self.key(v)) for n, v in held.items())
        own = kind.__eq__ is object.__eq__
        return self.key(kind), parts, _Same(value) if own else None


def _code_key(code: types.CodeType) -> Hashable:
    """Returns what code does, without where it was written.

    A cell that is run again under other lines is compiled to code objects that differ
    in their line numbers alone.
    """
    return (
        code.co_name, code.co_code, code.co_names, code.co_varnames, code.co_freevars,
        code.co_cellvars, code.co_flags, code.co_argcount, code.co_posonlyargcount,
        code.co_kwonlyargcount, code.co_exceptiontable,
        tuple(map(_constant_key, code.co_consts)),
    )  # fmt: skip


def _constant_key(value: Any) -> Hashable:
    """Returns a constant of code with its type: 1 is not 1.0, nor 0.0 -0.0."""
    match value:
        case types.CodeType():
            return _code_key(value)
        case tuple():
            return tuple, tuple(map(_constant_key, value))
        case frozenset():
            return frozenset, frozenset(map(_constant_key, value))
    return type(value), repr(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not set yet
        return cell


def _names(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _file(module: Any) -> str:
    """Where a module was read from; "" for what was typed in."""
    if getattr(module, "__name__", "") == "__main__":
        return ""
    return getattr(module, "__file__", None) or "built-in"


def _is_installed(path: str) -> bool:
    return path == "built-in" or any(part in path for part in _INSTALLED)


def _attributes(value: Any) -> dict[str, Any]:
    """What an object holds in its dictionary and in its slots."""
    held = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                held[name] = getattr(value, name)
    return held
