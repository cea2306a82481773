"""The study in `studies/throughput`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.throughput.command")
