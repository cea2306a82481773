"""The errors a user can meet: what happened, where, and what to do about it."""

from __future__ import annotations


class JaxcertError(ValueError):
    """Base of every error that is the caller's to mend.

    The message is one sentence or two: what is wrong, where, and what to do.
    Command-line scripts print it in one line and exit with code 1.
    """


class InputError(JaxcertError):
    """An input, a flag or a file does not have the form that is asked for."""


class OutOfMemoryError(JaxcertError):
    """The memory does not suffice for what is asked."""


class UnsupportedError(JaxcertError):
    """An operator or a primitive has no rule here; the message names the remedy."""
