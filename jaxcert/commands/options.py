"""The options of a command: one frozen dataclass, of which all else is derived.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Request(Options):
        steps: int = option(30, "Gradient steps of the attack.", least=1, most=4096)

Its flags and their help (`flags_of`, `help_of`), the checks of their ranges
(`Options.__post_init__`) and what a run writes down of them (`Options.record`) come
from the fields. Nothing is registered globally, so that a process may know the options
of many commands.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from absl import flags

from jaxcert.errors import InputError

REQUIRED = dataclasses.MISSING
"""Default of an option that must be given."""


@dataclasses.dataclass(frozen=True)
class _About:
    """What is known of an option but for its name, type and default."""

    help: str
    choices: tuple[str, ...]
    least: float | None
    above: float | None
    most: float | None
    below: float | None
    empty: str

    def check(self, name: str, value: Any) -> None:
        """Raises InputError if a value is out of range, empty, or none to choose."""
        if value is None:
            return
        if self.choices and value not in self.choices:
            known = ", ".join(self.choices)
            raise InputError(f"{name} is {value!r}; choose one of {known}")
        if self.empty and not value:
            raise InputError(f"{name} is empty: {self.empty}")
        if isinstance(value, (int, float)) and not self._holds(value):
            raise InputError(f"{name} is {value}; it must {self._range()}")

    def _holds(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def _range(self) -> str:
        least = self.above if self.least is None else self.least
        most = self.below if self.most is None else self.most
        if self.below == math.inf:
            if least == -math.inf:
                return "be finite"
            if self.least is None:
                return f"be > {least} and finite"
            return f"be a number >= {least}"
        if most is None:
            return f"be {'>' if self.least is None else '>='} {least}"
        if self.least is None and self.most is None:
            return f"lie between {least} and {most}"
        if self.least is not None and self.most is not None:
            return f"lie in {least} .. {most}"
        ends = "(" if self.least is None else "[", ")" if self.most is None else "]"
        return f"lie in {ends[0]}{least}, {most}{ends[1]}"


def option(
    default: Any,
    help: str,  # noqa: A002
    *,
    choices: Sequence[str] = (),
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    empty: str = "",
) -> Any:
    """Returns the field of an option.

    Args:
      default: its value if it is not given; `REQUIRED` if it must be.
      help: what `--help` says.
      choices: the words that it may be.
      least, above, most, below: its range, `above` and `below` exclusive of the ends;
        infinite ends that are exclusive ask for a finite number.
      empty: what to do where it is empty, if it may not be.
    """
    about = _About(help, tuple(choices), least, above, most, below, empty)
    return dataclasses.field(default=default, metadata={"about": about})


def folder(default: Any) -> Any:
    """Returns the field of the folder that a command writes."""
    return option(default, "Folder to write.", empty="name the folder to write")


def seed(what: str) -> Any:
    """Returns the field of a seed, given what it is the seed of."""
    return option(0, f"Seed of {what}.", least=0, most=2**32 - 1)


def data_dir() -> Any:
    """Returns the field of the folder with a data set."""
    return option(
        None, "Folder with the data set; if unset it is looked for, else downloaded."
    )


DATASET = (
    "digits, mnist, fashion_mnist, cifar10, any image data set that "
    "tensorflow-datasets has prepared, or the path of a folder of your own."
)
"""Help of the option of a data set."""


def time_limit(default: float, what: str) -> Any:
    """Returns the field of the seconds that a run may take, 0 for no limit."""
    return option(default, f"Seconds {what}; 0: no limit.", least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a command is asked. Making one raises InputError for a value out of range.

    Fields are made by `option`. Their types are str, int, float, bool, one of these
    or None, or tuples of str, int or float.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            field.metadata["about"].check(field.name, getattr(self, field.name))

    def record(self) -> dict[str, Any]:
        """Returns the values by the names of their flags, for the files of a run."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def command(self, name: str) -> str:
        """Returns the command line that asks for this; defaults are left out."""
        words = [f"jaxcert {name}"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no'}{field.name}")
                continue
            text = ",".join(map(_word, value)) if isinstance(value, tuple) else value
            words.append(shlex.quote(f"--{field.name}={text}"))
        return " ".join(words)


Some = TypeVar("Some", bound=Options)


def flags_of(kind: type[Options]) -> flags.FlagValues:
    """Returns the flags of options, not parsed, with no others beside them."""
    values = flags.FlagValues()
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING
        default: Any = None if required else field.default
        about, hint = field.metadata["about"], _without_none(hints[field.name])
        own: dict[str, Any] = {
            "flag_values": values, "module_name": kind.__module__, "required": required,
        }  # fmt: skip
        if about.choices:
            flags.DEFINE_enum(field.name, default, about.choices, about.help, **own)
        elif _items(hint) is not None:
            words = default and [_word(item) for item in default]
            flags.DEFINE_list(field.name, words, about.help, **own)
        else:
            _DEFINE[hint](field.name, default, about.help, **own)
    return values


def help_of(kind: type[Options]) -> str:
    """Returns the flags of options as `--help` shows them."""
    return flags_of(kind).module_help(kind.__module__).partition(":\n")[2]


def read(kind: type[Some], values: flags.FlagValues) -> Some:
    """Returns the options that parsed flags say.

    Raises:
      InputError: a value is out of range, or no number where it must be one.
    """
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value, item = values[field.name].value, _items(hints[field.name])
        if item is not None:
            value = _items_of(field.name, item, value or ())
        given[field.name] = value
    return kind(**given)


_DEFINE: dict[Any, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_boolean,
}
_ITEMS = {int: "integers", float: "numbers"}


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _items(hint: Any) -> Any:
    """Returns the type of the items of a tuple's type; None if it is none."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _items_of(name: str, item: Any, words: Sequence[str]) -> tuple[Any, ...]:
    try:
        found = tuple(item(word) for word in words)
        finite = item is not float or all(map(math.isfinite, found))
    except ValueError:
        finite = False
    if not finite:
        raise InputError(
            f"--{name} takes {_ITEMS[item]} with commas, got {','.join(words)}"
        )
    return found
