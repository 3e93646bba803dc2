"""For mkdocstrings: doctests of docstrings as code blocks, with or without a heading above them."""

import re

import griffe


class FenceDoctests(griffe.Extension):
    """Fence each paragraph that begins with a prompt."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Called by griffe for each module, class, function and attribute that it has read."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"(?m)^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", text)
