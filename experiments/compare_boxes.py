"""The study in `studies/compare_boxes`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.compare_boxes.command")
