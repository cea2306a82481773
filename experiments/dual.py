"""The command `jaxcert dual`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.dual.command")
