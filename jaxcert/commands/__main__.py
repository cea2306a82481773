"""The console script `jaxcert`: runs a command by its name."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

COMMANDS = {
    "certify": "certifies inputs of an ONNX file or checkpoint; resumable",
    "check": "checks certificates, independently of the search",
    "verify": "decides VNN-LIB properties and whole benchmarks",
    "audit": "looks for adversarial examples in other people's boxes",
    "train": "trains standard, PGD, IBP and CROWN-IBP networks; exports ONNX",
    "sweep": "trains and certifies over grids of hyperparameters",
    "dual": "boxes that contain every point of a class, with witnesses",
    "tabular": "certifies rows of tables, and says so in their units",
    "smoothing": "randomized smoothing, in l2 and l1",
    "plan_samples": "how many samples a smoothed radius needs",
    "semantic": "certifies against brightness, contrast, blur and gamma",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("--help", "-h", "help"):
        print(f"{_USAGE}\n\nCommands:")
        for name, purpose in COMMANDS.items():
            print(f"  {name:13s} {purpose}")
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name == "check":
        # Run, not imported: nothing here shares code with it.
        sys.argv = [f"jaxcert {name}", *rest]
        runpy.run_module("jaxcert.checker", run_name="__main__")
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: unknown command '{name}'; choose {known}", file=sys.stderr)
        return 2
    from jaxcert.commands import console

    sys.argv = [f"jaxcert {name}", *rest]
    console.launch(f"jaxcert.commands.{name}.command")
    return 0


_USAGE = "jaxcert COMMAND --flag=value ...\n\n`jaxcert COMMAND --help` lists its flags."

if __name__ == "__main__":
    sys.exit(main())
