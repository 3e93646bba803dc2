"""The house: a file knows only its room and the rooms below, nothing goes in a circle, names are unique."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import ceconv_convert

PACKAGE = Path(ceconv_convert.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a room imports only what stands before it.
ROOMS = (
    "errors",
    "kernel",
    "layers",
    "architectures",
    "surgery",
    "forms",
    "conversion",
    "training",
    "files",
    "user_inputs",
    "checkpoint",
    "verification",
    "onnx",
    "exported_program",
    "rounding",
    "bench",
    "api",
    "report",
    "cli",
)
# The public names are loaded by name, when they are first used.
ABOVE = {"__init__", "__main__"}


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def imports(module):
    """The package's modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ceconv_convert":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found - {"ceconv_convert"}


def room_of(module):
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_a_file_knows_only_its_room_and_the_rooms_below(module):
    room = room_of(module)
    if room not in ABOVE:
        below = ROOMS[: ROOMS.index(room) + 1]
        assert {room_of(found) for found in imports(module)} <= set(below)


def test_no_imports_go_in_a_circle():
    done = set()

    def visit(module, path):
        assert module not in path, " → ".join((*path, module))
        if module not in done:
            for found in imports(module):
                visit(found, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_file_names_are_unique_and_none_is_another_in_other_words():
    names = [path.stem for path in FILES if path.stem not in ABOVE]
    words = Counter(frozenset(name.split("_")) for name in names)
    assert [sorted(found) for found, count in words.items() if count > 1] == []


def test_no_public_function_has_the_words_of_another():
    names = set()
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                names.add(node.name)
    words = Counter(frozenset(name.split("_")) for name in names)
    assert [sorted(found) for found, count in words.items() if count > 1] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_file_is_under_300_lines(module):
    assert len(MODULES[module].read_text().splitlines()) < 300


def test_the_package_does_not_grow():
    """Lower it where lines go."""
    assert sum(len(path.read_text().splitlines()) for path in FILES) <= 12_368


def test_all_errors_are_one_family():
    from ceconv_convert import errors

    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__:
            assert issubclass(value, ceconv_convert.ConversionError)


def test_the_version_is_the_packages():
    from importlib.metadata import version

    assert version("ceconv-convert") == ceconv_convert.__version__
