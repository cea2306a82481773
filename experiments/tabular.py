"""The command `jaxcert tabular`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.tabular.command")
