"""The study in `studies/growth`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.growth.command")
