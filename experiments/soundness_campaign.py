"""The study in `studies/soundness_campaign`."""

from jaxcert.commands import console

if __name__ == "__main__":
    console.launch("studies.soundness_campaign.command")
