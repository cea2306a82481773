"""The command `jaxcert train`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.train.command")
