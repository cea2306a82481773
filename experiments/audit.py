"""The command `jaxcert audit`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.audit.command")
