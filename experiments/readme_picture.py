"""The study in `studies/readme_picture`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.readme_picture.command")
