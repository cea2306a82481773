"""The command `jaxcert certify`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.certify.command")
