"""The command `jaxcert sweep`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.sweep.command")
