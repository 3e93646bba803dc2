"""For mkdocs: the page of options, written from the command itself."""

import html

import click

from ceconv_convert.cli.options import cli


def on_page_markdown(markdown: str, *, page: object, **_: object) -> str:
    """Called by mkdocs for each page; adds a table for each group of options to the one of options."""
    if page.file.src_uri != "reference/options.md":
        return markdown
    lines = [markdown]
    for title, records in cli.groups(click.Context(cli, info_name="ceconv-convert")).items():
        lines += [f"## {title}", "", "| option | what it does |", "|---|---|"]
        for name, text in records:
            shown, said = (html.escape(cell).replace("|", "&#124;") for cell in (name, text))
            lines.append(f"| <code>{shown}</code> | {said} |")
        lines.append("")
    return "\n".join(lines)
