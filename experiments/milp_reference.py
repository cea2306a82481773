"""The study in `studies/milp_reference`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.milp_reference.command")
