"""The command `jaxcert verify`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.verify.command")
