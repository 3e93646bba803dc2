"""The user's own inputs: what they say is what is read; what is damaged, or lies, is one sentence."""

import io
import os
import socket
import struct
import sys
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ceconv_convert import user_inputs
from ceconv_convert.errors import UnreadableInputError
from ceconv_convert.user_inputs import read_inputs

SMALL = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


def refused(path, sentence, size=None):
    with pytest.raises(UnreadableInputError, match=sentence) as caught:
        read_inputs(path, size).images.tensor()
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def header(path, shape, descr="'<f4'", content=b""):
    """A .npy file that claims what it likes."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return raw_header(path, text, content)


def raw_header(path, text, content=b""):
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n" + content)
    return path


@pytest.mark.parametrize(
    "dtype", ["f2", ">f4", "<f8", "longdouble", "i1", "<i2", ">i4", "u2", "<u8", "bool", "F"], ids=str
)
def test_arrays_of_every_dtype_keep_their_numbers(tmp_path, dtype):
    array = np.asfortranarray(SMALL) if dtype == "F" else SMALL.astype(dtype)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", images=array)
    for name in ("a.npy", "a.npz"):
        found = read_inputs(tmp_path / name, None)
        assert torch.equal(found.images.tensor().double(), torch.from_numpy(array.astype(np.float64)))
        assert found.images.tensor().dtype in (torch.float32, torch.float64)


def test_float64_keeps_its_precision(tmp_path):
    np.save(tmp_path / "a.npy", np.full((1, 3, 2, 2), 1 / 3))
    np.save(tmp_path / "b.npy", np.full((1, 3, 2, 2), 2**24 + 1))
    assert read_inputs(tmp_path / "a.npy", None).images[0][0, 0, 0] == 1 / 3
    assert read_inputs(tmp_path / "b.npy", None).images[0][0, 0, 0] == 2**24 + 1


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.int64],
)
def test_safetensors_of_every_dtype_keep_their_numbers(tmp_path, dtype):
    images = (torch.arange(24.0).reshape(1, 3, 2, 4) // 4).to(dtype)
    save_file({"images": images, "labels": torch.tensor([2]).to(dtype)}, tmp_path / "a.safetensors")
    found = read_inputs(tmp_path / "a.safetensors", None)
    assert torch.equal(found.images.tensor().double(), images.double())
    assert found.labels.tolist() == [2]


def test_only_what_is_asked_for_is_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=SMALL, names=np.array(["a", "b"]), objects=np.array([{}]))
    assert torch.equal(read_inputs(path, None).images.tensor(), torch.from_numpy(SMALL))


HEADERS = {
    "more than there is": (
        "(100000000, 3, 28, 28)",
        "'<f4'",
        "cannot be read as inputs",
    ),
    "beyond integers": (f"({10**40}, 3, 8, 8)", "'<f4'", "cannot be read as inputs"),
    "negative": ("(-1, 3, 8, 8)", "'<f4'", "cannot be read as inputs"),
    "no numbers": ("(1, 3.5, 8, 8)", "'<f4'", "cannot be read as inputs"),
    "objects": ("(1, 3, 8, 8)", "'|O'", "cannot be read as inputs: .*([oO]bject)"),
    "complex": ("(1, 3, 8, 8)", "'<c8'", "it has an array of complex64"),
    "structured": ("(1, 3, 8, 8)", "[('a', '<f4')]", "real numbers are expected"),
    "pairs": ("(1, 3, 8, 8)", "[('', '<f4', (2,))]", "real numbers are expected"),
    "text": ("(1, 3, 8, 8)", "'<U5'", "it has an array of <U5"),
    "dates": ("(1, 3, 8, 8)", "'<M8[s]'", "it has an array of datetime64"),
    "nothing": ("(0, 3, 8, 8)", "'<f4'", "has inputs of shape .0, 3, 8, 8."),
    "a scalar": ("()", "'<f4'", "has inputs of shape ..: expected .count, 3, H, W."),
    "flat": ("(16,)", "'<f4'", "has inputs of shape .16.: expected"),
}


@pytest.mark.parametrize(("shape", "descr", "sentence"), HEADERS.values(), ids=HEADERS)
def test_a_header_is_not_believed(tmp_path, shape, descr, sentence):
    path = header(tmp_path / "a.npy", shape, descr, bytes(20_000))
    refused(path, sentence)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.write(path, "images.npy")
    refused(tmp_path / "b.npz", sentence)


@pytest.mark.parametrize(
    "text",
    [
        b"{" * 60,
        b"(" * 5000,
        b"{'descr': ",
        b"\xff\xfe",
        b"'" * 9,
        b"1",
        b"",
        b"-" * 9000,
        b"[" * 200,
        b"\x00",
    ],
)
def test_a_header_that_is_none(tmp_path, text):
    refused(raw_header(tmp_path / "a.npy", text), "cannot be read as inputs")


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUM", b"\x93NUMPY\x09\x09..", b"\x93NUMPY\x01\x00\xff\xff{", b"PK"]
)
def test_what_is_no_array_file(tmp_path, content):
    for name in ("a.npy", "a.npz", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "cannot be read as")


def test_damaged_archives(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).random((2, 3, 16, 16)), labels=np.ones(2))
    whole = path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:cut])
        refused(path, "cannot be read as inputs")
    for place in (100, 1000, 3000):
        path.write_bytes(whole[:place] + bytes(16) + whole[place + 16 :])
        refused(path, "cannot be read as inputs")


def test_an_archive_that_lies_about_its_length(tmp_path):
    """The directory says 10 GB; there are 40 bytes."""
    path = tmp_path / "a.npz"
    member = header(tmp_path / "m", "(250000, 3, 28, 28)", "'|u1'", bytes(40)).read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", member)
    claimed = path.read_bytes().replace(struct.pack("<I", len(member)), struct.pack("<I", 10**9))
    path.write_bytes(claimed)
    refused(path, "cannot be read as inputs|bytes are missing")


def test_an_encrypted_archive(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=SMALL)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    refused(path, "encrypted")


def test_more_than_memory_should_hold_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(user_inputs, "LIMIT", 2**16)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((1, 3, 128, 128), np.uint8))
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 128, 128), np.uint8))
    save_file({"x": torch.zeros(1, 3, 128, 128, dtype=torch.uint8)}, tmp_path / "a.safetensors")
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (128, 128)).save(tmp_path / "folder" / "a.png")
    for name in ("a.npz", "a.npy", "a.safetensors", "folder"):
        refused(tmp_path / name, "more than|most that is read: use fewer")
    refused(tmp_path / "folder", "most that is read", size=(10**6, 10**6))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_inputs_that_are_not_finite(tmp_path, number):
    array = SMALL.copy()
    array[1, 2, 3, 4] = number
    np.save(tmp_path / "a.npy", array)
    refused(tmp_path / "a.npy", "cannot be read as inputs: input 1 has NaN or Inf")


LABELS = {
    "integers": (np.array([1, 0]), [1, 0]),
    "whole floats": (np.array([1.0, 0.0]), [1, 0]),
    "bytes": (np.array([255, 0], np.uint8), [255, 0]),
    "bools": (np.array([True, False]), [1, 0]),
    "a column": (np.array([[3], [7]]), [3, 7]),
    "one-hot": (np.eye(4)[[2, 3]], [2, 3]),
    "one-hot bools": (np.eye(4, dtype=bool)[[2, 3]], [2, 3]),
    "big-endian": (np.array([2, 1], ">i4"), [2, 1]),
}


@pytest.mark.parametrize(("labels", "expected"), LABELS.values(), ids=LABELS)
def test_labels_as_people_save_them(tmp_path, labels, expected):
    np.savez(tmp_path / "a.npz", images=SMALL, labels=labels)
    found = read_inputs(tmp_path / "a.npz", None).labels
    assert (found.tolist(), found.dtype) == (expected, torch.int64)


WRONG_LABELS = {
    "negative": (np.array([0, -1]), "has the label -1: expected class numbers, from 0"),
    "broken": (np.array([0, 0.5]), "has the label 0.5"),
    "no numbers": (np.array([0, np.nan]), "has the label nan"),
    "infinite": (np.array([0, np.inf]), "has the label inf"),
    "huge": (np.array([0, 2**63], np.uint64), "has the label 9223372036854775808"),
    "soft": (np.array([[0.5, 0.5], [0.1, 0.9]]), "labels of shape .2, 2.: expected one class number each"),
    "several ones": (np.ones((2, 3)), "labels of shape .2, 3."),
    "one too few": (np.array([1]), "it has 2 inputs and labels of shape .1."),
    "a scalar": (np.array(1), "labels of shape ..:"),
    "a class for each pixel": (np.zeros((2, 4, 5), np.int64), "labels of shape .2, 4, 5."),
    "names": (np.array(["cat", "dog"]), "it has an array of <U3, and real numbers are expected"),
    "complex": (np.array([1j, 0]), "it has an array of complex128"),
}


@pytest.mark.parametrize(("labels", "sentence"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_that_are_no_class_numbers(tmp_path, labels, sentence):
    np.savez(tmp_path / "a.npz", images=SMALL, labels=labels)
    with pytest.raises(UnreadableInputError, match=sentence):
        read_inputs(tmp_path / "a.npz", None)


def gradient(mode):
    """Red to the right, and what the mode has beside it."""
    image = Image.fromarray(np.tile(np.arange(0, 256, 64, dtype=np.uint8), (4, 1)))
    colors = Image.merge("RGB", (image, image, image))
    return colors.quantize(8) if mode == "P" else colors.convert(mode)


@pytest.mark.parametrize(
    "name_and_mode", ["a.png RGBA", "a.png LA", "a.png P", "a.png L", "a.tif CMYK", "A.PNG RGB", "a.gif P"]
)
def test_images_of_every_mode_are_made_rgb(tmp_path, name_and_mode):
    name, mode = name_and_mode.split()
    gradient(mode).save(tmp_path / name)
    found = read_inputs(tmp_path, None)
    assert found.labels is None
    expected = np.asarray(gradient("RGB"), np.float32) / 255
    assert np.allclose(
        np.moveaxis(found.images.tensor().numpy()[0], 0, -1), expected, atol=0.11
    )  # of a palette of 216 colors


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_grays_of_16_bits_keep_them(tmp_path, suffix):
    array = np.array([[0, 257, 30000, 65535]], np.uint16)
    if suffix == "ppm":
        (tmp_path / "a.ppm").write_bytes(b"P5 4 1 65535\n" + array.astype(">u2").tobytes())
    else:
        Image.fromarray(array).save(tmp_path / f"a.{suffix}")
    found = read_inputs(tmp_path, None).images.tensor()
    assert found.shape == (1, 3, 1, 4)
    assert np.allclose(found[0, 2, 0], array[0] / 65535, atol=1e-6)


def test_pixels_of_no_known_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(
        UnreadableInputError, match=r"a\.tif cannot be read as inputs: it has pixels in .* of no known range"
    ):
        read_inputs(tmp_path, None).images.tensor()


def test_the_first_of_moving_pictures_and_no_turning(tmp_path):
    frames = [Image.new("RGB", (4, 2), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    frames[0].save(tmp_path / "b.jpg", exif=exif)
    found = read_inputs(tmp_path, None).images.tensor()
    assert found.shape == (2, 3, 2, 4)
    assert (found[:, 0] > 0.98).all()
    assert (found[:, 1:] < 0.02).all()


def test_a_turned_tiff_is_no_other_size(tmp_path):
    Image.new("RGB", (4, 2), "red").save(tmp_path / "a.tif", tiffinfo={274: 6})
    with Image.open(tmp_path / "a.tif") as image:
        image.load()
        height, width = image.height, image.width
    assert read_inputs(tmp_path, None).images.shape == (1, 3, height, width)


def test_images_take_the_size_of_the_first_or_the_networks(tmp_path):
    gradient("RGB").save(tmp_path / "a.png")
    gradient("RGB").resize((9, 7)).save(tmp_path / "b.png")
    assert read_inputs(tmp_path, None).images.shape == (2, 3, 4, 4)
    assert read_inputs(tmp_path, (5, 6)).images.shape == (2, 3, 5, 6)


def test_folders_are_classes(tmp_path):
    for name in ("b", "a", "empty", ".hidden", os.fsdecode(b"z\xff")):
        (tmp_path / name).mkdir()
        if name != "empty":
            gradient("RGB").save(tmp_path / name / "x.png")
    (tmp_path / "a" / "._x.png").write_bytes(b"not an image")
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "notes.txt").write_text("not an image")
    os.mkfifo(tmp_path / "a" / "pipe")
    assert read_inputs(tmp_path, None).labels.tolist() == [0, 1, 3]


def bomb(path):
    """A PNG of 20000 × 20000 pixels, all black, of 50 kB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(20000 * 2501)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + start + rows + chunk(b"IEND", b""))


def truncated(path):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue()[:1000])


def large(path):
    """Large enough for Pillow to warn, and too small for an error."""
    Image.new("1", (10000, 9500)).save(path)


NO_IMAGES = {
    "a bomb": (bomb, "cannot be read as inputs: Image size"),
    "a small bomb": (large, "cannot be read as inputs: Image size"),
    "truncated": (truncated, "cannot be read as inputs: image file is truncated"),
    "text": (lambda path: path.write_text("no image"), "cannot be read as inputs"),
    "empty": (lambda path: path.touch(), "cannot be read as inputs"),
    "postscript": (
        lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "identify",
    ),
    "a broken link": (lambda path: path.symlink_to("nowhere"), "cannot be read: No such file"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
    "a pipe": (os.mkfifo, "is no regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
    "a folder": (lambda path: path.mkdir(), "is a folder in a folder of one class"),
}


@pytest.mark.parametrize(("make", "sentence"), NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_image_among_images_is_named(tmp_path, make, sentence):
    (tmp_path / "class").mkdir()
    for name in ("a", "c"):
        gradient("RGB").save(tmp_path / "class" / f"{name}.png")
    make(tmp_path / "class" / "b.png")
    with pytest.raises(UnreadableInputError, match=f"b.png.*{sentence}"):
        read_inputs(tmp_path, None).images.tensor()


def test_a_socket_is_no_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # its name may have 108 characters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("b.png")
        with pytest.raises(UnreadableInputError, match="is no regular file"):
            read_inputs(tmp_path, None).images.tensor()


def test_folders_that_say_two_things(tmp_path):
    (tmp_path / "class" / "inner").mkdir(parents=True)
    refused(tmp_path, "is a folder in a folder of one class")
    gradient("RGB").save(tmp_path / "a.png")
    refused(tmp_path, "holds images, as a.png, and folders, as class")


def test_what_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "class").mkdir()
    listed = type(tmp_path).iterdir

    def forbidden(path):
        if path.name == "class":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", forbidden)
    with pytest.raises(UnreadableInputError, match="class cannot be read as inputs: Permission denied"):
        read_inputs(tmp_path, None).images.tensor()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "a"])
def test_a_pipe_for_inputs_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "inputs are a folder of images")


def test_there_may_be_too_little_memory(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=SMALL)

    def without_memory(*_, **__):
        raise MemoryError("Unable to allocate 3.00 GiB")

    monkeypatch.setattr(user_inputs.npy, "read_array", without_memory)
    refused(tmp_path / "a.npz", "cannot be read as inputs: Unable to allocate 3.00 GiB")


def test_arrays_need_no_pillow(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", SMALL)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert read_inputs(tmp_path / "a.npy", None).images.shape == SMALL.shape
