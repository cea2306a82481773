"""Lets the documentation take `Example:` of a docstring for a section of examples."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the heading to the one that the Google style knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
