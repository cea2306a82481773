"""The command `jaxcert check`."""

import sys

from jaxcert.commands.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
