"""The house: every room knows only the rooms below it, and files stay small."""

import ast
from pathlib import Path

import pytest

import ceconv_convert

PACKAGE = Path(ceconv_convert.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room with the rooms below it.
BELOW = {
    "errors": set(),
    "kernel": {"errors"},
    "layers": {"kernel", "errors"},
    "architectures": {"layers", "kernel", "errors"},
    "modules": {"kernel", "errors"},
    "read": {"modules", "layers", "kernel", "errors"},
    "report": {"bench", "rewrite", "verification", "errors"},
    "checkpoint": {"architectures", "read", "layers", "modules", "kernel", "errors"},
    "graph": {"modules", "kernel", "errors"},
    "rewrite": {"read", "modules", "kernel", "errors"},
    "verification": {"read", "modules", "kernel", "errors"},
    "bench": {"graph", "verification", "errors"},
    "judging": {"checkpoint", "verification", "graph", "kernel", "errors"},
    "exporting": {"judging", "checkpoint", "rewrite", "verification", "graph", "modules", "errors"},
    "api": {"exporting", "judging", "checkpoint", "rewrite", "verification", "graph", "modules", "errors"},
    "pipeline": {
        "exporting",
        "judging",
        "bench",
        "checkpoint",
        "rewrite",
        "verification",
        "graph",
        "modules",
        "report",
        "errors",
    },
    "command": {"pipeline", "report", "errors", "__version__"},
    "cli": {"command", "errors"},
    "__main__": {"cli"},
    "__init__": {"api", "layers", "errors"},
}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ceconv_convert":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_knows_only_the_rooms_below_it(path):
    room = room_of(path)
    assert set(imported_rooms(path)) <= BELOW[room] | {room}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_under_300_lines(path):
    assert len(path.read_text().splitlines()) < 300


def test_all_errors_are_one_family():
    from ceconv_convert import errors

    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__:
            assert issubclass(value, ceconv_convert.ConversionError)


def test_the_version_is_the_packages():
    from importlib.metadata import version

    assert version("ceconv-convert") == ceconv_convert.__version__
