"""The command `jaxcert plan_samples`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("jaxcert.commands.plan_samples.command")
