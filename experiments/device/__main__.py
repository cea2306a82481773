"""`python -m device NAME`: the conductor, or one of the measurements that it starts."""

import sys

from jaxcert.commands import console

NAMES = ("conduct", "rates", "brackets", "blocks", "samples", "profile")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"name one of {', '.join(NAMES)}")
    console.launch(f"device.{sys.argv.pop(1)}")
