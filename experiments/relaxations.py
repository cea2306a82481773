"""The study in `studies/relaxations`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.relaxations.command")
