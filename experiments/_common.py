"""What every experiment script shares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app

from jaxcert.errors import JaxcertError


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs `main` on the parsed flags and exits with its code.

    A mistake of the user's (JaxcertError, OSError) is one line on stderr and exit code
    1; absl itself reports malformed flags.
    """

    def wrapped(argv: Sequence[str]) -> int | None:
        try:
            if len(argv) > 1:
                raise JaxcertError(
                    f"unexpected argument {argv[1]!r}; options are written --name=value"
                )
            return main(argv)
        except (JaxcertError, OSError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 1

    app.run(wrapped)
