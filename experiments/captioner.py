"""The study in `studies/captioner`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.captioner.command")
