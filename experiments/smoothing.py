"""The command `jaxcert smoothing`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.smoothing.command")
