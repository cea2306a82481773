"""The study in `studies/asymmetric`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.asymmetric.command")
