"""For MkDocs: links of the notebook to other pages lead to these pages on the site too."""

import re
from typing import Any


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Called for each page of the site."""
    if not page.file.src_uri.endswith(".ipynb"):
        return output
    return re.sub(r'href="(?!https?:)([\w/]+)\.md"', r'href="../\1/"', output)
