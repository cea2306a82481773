"""What the process of every command shares: flags, errors, compilation cache."""

from __future__ import annotations

import importlib
import logging as python_logging
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import jax
from absl import app, flags, logging

from jaxcert.cache import use_compilation_cache
from jaxcert.commands import options
from jaxcert.errors import JaxcertError
from jaxcert.limit import left_behind
from jaxcert.runs.files import expand_home as expand
from jaxcert.scope import Scope

__all__ = ["expand", "guarded", "help_text", "launch", "one_line", "parse"]

_HELP = {"--help", "-help", "-h", "--helpshort", "--helpfull"}


def launch(name: str) -> None:
    """Runs the module of a command, as the program that this process is.

    A mistake of the user's is one line on stderr and exit code 1 (see `guarded`); a
    malformed flag one line and exit code 2. Words that are no flags are a mistake.

    Args:
      name: of a module whose docstring says what the command does, whose `Request` has
        its options, and whose `main` takes them and returns the exit code.
    """
    command = importlib.import_module(name)
    if not _HELP.isdisjoint(sys.argv[1:]):
        print(help_text(command))
        return
    values = options.flags_of(command.Request)
    try:
        app.run(
            guarded(lambda: command.main(options.read(command.Request, values))),
            flags_parser=lambda argv: parse(values, argv),
        )
    except SystemExit as stopped:
        if not left_behind():
            raise
        # XLA may not be taken down in the middle of a compilation, nor waited for:
        # all that was to be written is.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stopped.code if isinstance(stopped.code, int) else 0)


def help_text(command: ModuleType) -> str:
    """Returns what a command does, and its flags."""
    about = (command.__doc__ or "").strip()
    return f"{about}\n\nFlags:\n{options.help_of(command.Request)}"


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Parses the flags of a command, and those of absl; returns what is no flag."""
    values.append_flag_values(flags.FLAGS)
    try:
        rest = values(list(argv))
    except (flags.Error, ValueError) as error:  # absl's own flags raise ValueError
        sys.exit(_fail(f"{error} (see --help)", 2))
    flags.FLAGS.mark_as_parsed()
    return rest


def guarded(main: Callable[[], int | None]) -> Callable[[Sequence[str]], int | None]:
    """Returns a program that runs `main`, every error of a user's being one line.

    It takes what is no flag, of which there may be none but the name of the program.

    Code 1 for JaxcertError, OSError and too little memory; 130 for Ctrl-C.
    """

    def wrapped(argv: Sequence[str]) -> int | None:
        logging.use_absl_handler()
        logging.get_absl_handler().setFormatter(_Plain())
        if not flags.FLAGS["verbosity"].present:
            # Only ours: the root logger would let every library's news through.
            logging.get_absl_logger().setLevel(python_logging.INFO)
        # It reports every kind of accelerator that this machine does not have.
        python_logging.getLogger("jax._src.xla_bridge").setLevel(python_logging.ERROR)
        # It tells of the list of fonts that it makes once on every machine.
        python_logging.getLogger("matplotlib").setLevel(python_logging.WARNING)
        use_compilation_cache()
        try:
            if len(argv) > 1:
                raise JaxcertError(
                    f"unexpected argument {argv[1]!r}; options are written --name=value"
                )
            return main()
        except BrokenPipeError:
            # The reader of stdout has gone, so nobody is left to tell. Python would
            # complain once more when it flushes stdout at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (JaxcertError, OSError) as error:
            return _fail(error)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                return _fail("out of memory: make --batch_size smaller")
            raise
        except KeyboardInterrupt:
            print("stopped by Ctrl-C", file=sys.stderr)
            return 130

    return wrapped


class _Plain(python_logging.Formatter):
    """Writes `warning: what happened`, or what happens where it is only news."""

    def format(self, record: python_logging.LogRecord) -> str:
        text = one_line(record.getMessage())
        if record.levelno <= python_logging.INFO:
            return text
        return f"{record.levelname.lower()}: {text}"


def _fail(error: object, code: int = 1) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return code


def one_line(text: object) -> str:
    """Returns the text in one line; a file's name must not steer the terminal."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in words)


def warn_of_assumptions(scope: Scope) -> None:
    """Says on stderr what proofs take for granted, if anything."""
    for text in scope.assumptions:
        logging.warning("taken for granted: %s", text)
