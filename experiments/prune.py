"""The study in `studies/prune`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.prune.command")
