"""The command `jaxcert semantic`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.semantic.command")
