"""torch's file format before zip: five pickles, then the numbers.

Where a whole module was saved, its pickle wraps each class in a persistent id, ``("module", class, file,
source)``, which torch's weights-only loading does not know. It stands for the class alone: the pickle is
rewritten to name just that, and what may be named is then decided as for every other file. The code in
``source`` is text, and nobody runs it.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_PICKLES = 5
"""A magic number, a version, the system, the object, the names of its storages."""
_OBJECT = 3
_PUTS = frozenset({"BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"BINGET", "LONG_BINGET"})


class _Step(NamedTuple):
    """An instruction of a pickle, and the bytes that it is."""

    name: str
    argument: object
    raw: bytes
    takes_mark: bool


def names_in(file: BinaryIO) -> list[str]:
    """Every class and function that the pickles name, ``package.module.name``, each once."""
    steps = (step for _ in range(_PICKLES) for step in _steps(file))
    names = [str(step.argument).replace(" ", ".") for step in steps if step.name == "GLOBAL"]
    return list(dict.fromkeys(names))


def is_legacy(file: BinaryIO) -> bool:
    """Whether a file is in this format; it is left at its beginning."""
    file.seek(0)
    head = file.read(len(MAGIC))
    file.seek(0)
    return head == MAGIC


def check_storages(file: BinaryIO) -> None:
    """Raise ValueError where a storage is named twice: another would keep what the memory held.

    The file is left at its beginning.
    """
    for _ in range(_PICKLES):
        steps = _steps(file)
    keys = [step.argument for step in steps if step.name == "BINUNICODE"]
    if len(set(keys)) < len(keys) or any(step.name in _GETS for step in steps):
        raise ValueError("it names a storage twice")
    file.seek(0)


def without_wrapped_classes(found: BinaryIO) -> io.BytesIO:
    """The file with every wrapped class replaced by the class."""
    whole = io.BytesIO()
    for index in range(_PICKLES):
        steps = _steps(found)
        whole.writelines(step.raw for step in (_unwrap(steps) if index == _OBJECT else steps))
    whole.write(found.read())
    whole.seek(0)
    return whole


def _steps(file: BinaryIO) -> list[_Step]:
    """The instructions of the next pickle in ``file``, which is left at its end."""
    start = file.tell()
    found = list(pickletools.genops(file))
    end = file.tell()
    file.seek(start)
    raw = file.read(end - start)
    stops = [position for _, _, position in found[1:]] + [end]
    return [
        _Step(
            opcode.name,
            argument,
            raw[(position or 0) - start : (stop or 0) - start],
            pickletools.markobject in opcode.stack_before,
        )
        for (opcode, argument, position), stop in zip(found, stops, strict=True)
    ]


def _unwrap(steps: list[_Step]) -> Iterator[_Step]:
    """The steps without the wrapping; a text remembered inside it and used elsewhere is said again there."""
    out: list[_Step] = []
    marks: list[int] = []
    last_mark = 0
    texts: dict[object, str] = {}
    lost: set[object] = set()
    for step in steps:
        if step.name in _PUTS and out and out[-1].name == "BINUNICODE":
            texts[step.argument] = str(out[-1].argument)
        if step.name in _GETS and step.argument in lost:
            lost.discard(step.argument)
            out += [_text(texts[step.argument]), _put(step.argument)]
            continue
        if step.takes_mark and marks:
            last_mark = marks.pop()
        if step.name == "MARK":
            marks.append(len(out))
        if step.name == "BINPERSID" and _wraps(out[last_mark:], texts):
            wrapped = out[last_mark:]
            out[last_mark:], dropped = _class_of(wrapped, texts)
            lost |= dropped
            continue
        out.append(step)
    yield from out


def _wraps(steps: list[_Step], texts: dict[object, str]) -> bool:
    """Whether ``MARK, "module", …, TUPLE`` is what a persistent id is made of."""
    if len(steps) < 2 or steps[0].name != "MARK":
        return False
    first = steps[1]
    return (texts.get(first.argument) if first.name in _GETS else first.argument) == "module"


def _class_of(steps: list[_Step], texts: dict[object, str]) -> tuple[list[_Step], set[object]]:
    """The steps that push the class and remember it, and the places of the texts that go unremembered."""
    kept: list[_Step] = []
    dropped: set[object] = set()
    for index, step in enumerate(steps):
        if step.name == "GLOBAL" or (step.name in _GETS and step.argument not in texts):
            kept.append(step)
        elif step.name in _PUTS:
            if steps[index - 1].name == "GLOBAL":
                kept.append(step)
            elif step.argument in texts:
                dropped.add(step.argument)
    return kept, dropped


def _text(text: str) -> _Step:
    encoded = text.encode("utf-8", "surrogatepass")
    raw = pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded
    return _Step("BINUNICODE", text, raw, takes_mark=False)


def _put(place: object) -> _Step:
    raw = pickle.LONG_BINPUT + int(str(place)).to_bytes(4, "little")
    return _Step("LONG_BINPUT", place, raw, takes_mark=False)
