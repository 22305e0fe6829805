import io
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data_tools import images
from data_tools.images import ImageError, load_picture
from data_tools.rejects import Reason


def load_jpeg(path: Path, shorter_side: int | None = None) -> bytes:
    picture = load_picture(path, shorter_side)
    assert picture.remark is None
    return picture.jpeg


def test_jpeg_bytes_stay_as_they_are(tmp_path: Path, image_bytes: Callable[..., bytes]) -> None:
    data = image_bytes("JPEG")
    (tmp_path / "x").write_bytes(data)
    assert load_jpeg(tmp_path / "x") == data


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"), ("WEBP", "RGB"), ("BMP", "L")])
def test_other_formats_become_jpeg(tmp_path: Path, image_bytes: Callable[..., bytes], kind: str, mode: str) -> None:
    (tmp_path / "x").write_bytes(image_bytes(kind, mode=mode))
    with Image.open(io.BytesIO(load_jpeg(tmp_path / "x"))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (8, 6))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_image_is_bad(tmp_path: Path, kind: str) -> None:
    """The header is intact, so only decoding finds the damage."""
    Image.effect_noise((64, 64), 100).save(tmp_path / "x", kind)
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[: len(data) * 3 // 4])
    with Image.open(tmp_path / "x") as image:
        assert image.size == (64, 64)
    with pytest.raises(ImageError) as raised:
        load_jpeg(tmp_path / "x")
    assert raised.value.reason == Reason.BAD_IMAGE


def test_what_is_no_image_is_bad(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(ImageError, match="x: not an image"):
        load_jpeg(tmp_path / "x")


def test_missing_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="x: No such file") as raised:
        load_jpeg(tmp_path / "x")
    assert raised.value.reason == Reason.MISSING_IMAGE


def test_size_is_checked_before_decoding(
    tmp_path: Path, image_bytes: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(image_bytes("PNG"))
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 47)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="8x6 exceeds the limit of 47 pixels"):
        load_jpeg(tmp_path / "x")


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    image.load()
    return image


def write_corners(path: Path, kind: str, mode: str = "RGB", orientation: int = 1) -> np.ndarray:
    """Write a picture of 60x40 whose quarters differ; return it as it should look."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30], pixels[:20, 30:], pixels[20:, :30] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(path, kind, quality=95, exif=exif)
    turns = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}
    return turns[orientation]


def same_picture(found: Image.Image, expected: np.ndarray) -> bool:
    """Whether the centres of the quarters are as expected, at any size."""
    height, width = expected.shape[:2]
    for y, x in ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
        here = np.array(found.getpixel((int(found.width * x), int(found.height * y))), int)
        if np.abs(here - expected[int(height * y), int(width * x)]).max() > 40:
            return False
    return found.width > found.height if width > height else found.width < found.height


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("shorter_side", [None, 16])
def test_turned_images_are_set_upright(tmp_path: Path, kind: str, orientation: int, shorter_side: int | None) -> None:
    seen = write_corners(tmp_path / "x", kind, orientation=orientation)
    image = decode(load_jpeg(tmp_path / "x", shorter_side))
    assert same_picture(image, seen)
    assert image.getexif() == {}
    assert min(image.size) == (shorter_side or 40)


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    seen = write_corners(tmp_path / "x", "JPEG", mode="CMYK")
    image = decode(load_jpeg(tmp_path / "x"))
    assert image.mode == "RGB"
    assert same_picture(image, seen)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_shades(tmp_path: Path, kind: str) -> None:
    ramp = np.linspace(0, 65_535, 64).astype(np.uint16)[None].repeat(16, 0)
    Image.fromarray(ramp).save(tmp_path / "x", kind)
    found = np.asarray(decode(load_jpeg(tmp_path / "x")))[8, :, 0].astype(int)
    assert np.abs(found - np.linspace(0, 255, 64)).max() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0)).convert(mode)
    image.save(tmp_path / "x", "PNG", **({"transparency": image.getpixel((0, 0))} if mode == "P" else {}))
    assert min(decode(load_jpeg(tmp_path / "x")).getpixel((8, 8))) > 250


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "x", "GIF", save_all=True, append_images=frames[1:])
    red, green, blue = decode(load_jpeg(tmp_path / "x")).getpixel((8, 8))
    assert red > 240 > 20 > max(green, blue)


@pytest.mark.parametrize(("size", "expected"), [((64, 48), (21, 16)), ((48, 200), (16, 67)), ((1000, 17), (941, 16))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_shorter_side_is_brought_down(
    tmp_path: Path, image_bytes: Callable[..., bytes], kind: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    (tmp_path / "x").write_bytes(image_bytes(kind, size=size))
    assert decode(load_jpeg(tmp_path / "x", 16)).size == expected


def test_nothing_is_enlarged(tmp_path: Path, image_bytes: Callable[..., bytes]) -> None:
    data = image_bytes("JPEG", size=(16, 30))
    (tmp_path / "x").write_bytes(data)
    assert load_jpeg(tmp_path / "x", 16) == data


def test_scaled_decoding_looks_like_the_filter_alone(tmp_path: Path) -> None:
    y, x = np.mgrid[:900, :1200]
    smooth = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), (x + y) / 9], -1)
    Image.fromarray(smooth.clip(0, 255).astype(np.uint8)).save(tmp_path / "x", "JPEG", quality=95)
    found = np.asarray(decode(load_jpeg(tmp_path / "x", 90)), float)
    with Image.open(tmp_path / "x") as image:
        image.resize((120, 90), Image.Resampling.LANCZOS).save(tmp_path / "y", "JPEG", quality=95)
    expected = np.asarray(decode((tmp_path / "y").read_bytes()), float)
    assert np.abs(found - expected).mean() < 2


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of entries (tag, type, count, four bytes of value), in little-endian order."""
    packed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


ORIENTATION, MAKE, RESOLUTION_UNIT = 0x0112, 0x010F, 0x0128
BYTE, ASCII, SHORT, LONG, FLOAT = 1, 2, 3, 4, 11


@pytest.mark.parametrize(
    ("entries", "turned"),
    [
        ([(ORIENTATION, SHORT, 1, b"\6"), (RESOLUTION_UNIT, BYTE, 1, b"\2")], True),
        ([(ORIENTATION, SHORT, 1, b"\6"), (MAKE, FLOAT, 1, struct.pack("<f", 1.5))], True),
        ([(ORIENTATION, LONG, 1, b"\6")], True),
        ([(ORIENTATION, BYTE, 1, b"\6")], True),
        ([(ORIENTATION, FLOAT, 1, struct.pack("<f", 6))], True),
        ([(ORIENTATION, ASCII, 2, b"6")], True),
        ([(ORIENTATION, SHORT, 1, b"\11"), (RESOLUTION_UNIT, BYTE, 1, b"\2")], False),
        ([(ORIENTATION, SHORT, 1, b"\0")], False),
        ([(ORIENTATION, LONG, 1, b"\xff\xff\xff\xff")], False),
        ([(ORIENTATION, FLOAT, 1, struct.pack("<f", float("nan")))], False),
        ([(ORIENTATION, ASCII, 4, b"top")], False),
        ([(ORIENTATION, SHORT, 0, b"\6")], False),
        ([(ORIENTATION, 99, 1, b"\6")], False),
        ([(ORIENTATION, SHORT, 2**31, b"\xff\xff\xff\x7f")], False),
    ],
)
@pytest.mark.parametrize("shorter_side", [None, 16])
def test_odd_exif_costs_no_picture(tmp_path: Path, entries: list, turned: bool, shorter_side: int | None) -> None:
    write_corners(tmp_path / "plain", "JPEG")
    with Image.open(tmp_path / "plain") as image:
        image.save(tmp_path / "x", "JPEG", quality=95, exif=exif(*entries))
        pixels = np.asarray(image)
    found = decode(load_jpeg(tmp_path / "x", shorter_side))
    assert same_picture(found, np.rot90(pixels, -1) if turned else pixels)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    write_corners(tmp_path / "plain", "PNG")
    with Image.open(tmp_path / "plain") as image:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image.save(tmp_path / "x", "PNG", exif=exif)
    with Image.open(tmp_path / "x") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert same_picture(decode(load_jpeg(tmp_path / "x")), expected)


@given(st.binary(max_size=200))
def test_random_exif_costs_no_picture(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("exif") / "x"
    Image.new("RGB", (9, 6), "red").save(path, "JPEG", exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + data)
    assert decode(load_jpeg(path, 5)).getbands() == ("R", "G", "B")


@pytest.mark.parametrize(
    ("mode", "white"), [("F", 1), ("F", 255), ("F", 65_535), ("F", 2e6), ("I", 255), ("I", 65_535)]
)
def test_deep_tiffs_keep_their_shades(tmp_path: Path, mode: str, white: float) -> None:
    ramp = np.linspace(0, white, 64)[None].repeat(16, 0)
    Image.fromarray(ramp.astype(np.float32 if mode == "F" else np.int32)).save(tmp_path / "x", "TIFF")
    found = np.asarray(decode(load_jpeg(tmp_path / "x")))[8, :, 0].astype(int)
    assert np.abs(found - np.linspace(0, 255, 64)).max() < 6


def test_floats_that_are_no_numbers_are_black(tmp_path: Path) -> None:
    shades = np.full((16, 16), 0.5, np.float32)
    shades[:8, :8], shades[:8, 8:], shades[8:, :8] = np.nan, np.inf, -np.inf
    Image.fromarray(shades).save(tmp_path / "x", "TIFF")
    found = decode(load_jpeg(tmp_path / "x"))
    assert [found.getpixel(xy)[0] > 100 for xy in ((3, 3), (12, 3), (3, 12), (12, 12))] == [False, False, False, True]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("shorter_side", [None, 32])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_marker_is_kept_whole(
    tmp_path: Path, progressive: bool, missing: int, shorter_side: int | None
) -> None:
    Image.effect_noise((64, 64), 100).save(tmp_path / "x", "JPEG", progressive=progressive)
    data = (tmp_path / "x").read_bytes()
    expected = load_jpeg(tmp_path / "x", shorter_side)
    (tmp_path / "x").write_bytes(data[:-missing])
    picture = load_picture(tmp_path / "x", shorter_side)
    assert picture.jpeg == expected
    assert picture.remark is not None
    assert (picture.remark.reason, picture.remark.detail[:3]) == (Reason.UNFINISHED_IMAGE, "x: ")


@pytest.mark.parametrize("missing", [4, 8, 100])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_more_is_bad(tmp_path: Path, missing: int, progressive: bool) -> None:
    Image.effect_noise((64, 64), 100).save(tmp_path / "x", "JPEG", progressive=progressive)
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-missing])
    with pytest.raises(ImageError, match="x: image file is truncated"):
        load_picture(tmp_path / "x")


SIDE = 9000  # over our bound, under that of Pillow


def png_bomb() -> bytes:
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(SIDE * 3 + 1) * 200)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def gif_bomb() -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, SIDE, SIDE, 0) + b"\x02\x02\x4c\x01\x00;"


def tiff_bomb() -> bytes:
    entries = {256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: SIDE, 279: SIDE * SIDE}
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + packed + bytes(4)


@pytest.mark.parametrize("bomb", [png_bomb, gif_bomb, tiff_bomb])
def test_bombs_are_refused_by_their_header(tmp_path: Path, bomb: Callable[[], bytes]) -> None:
    (tmp_path / "x").write_bytes(bomb())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="9000x9000 exceeds the limit") as raised:
        load_jpeg(tmp_path / "x")
    assert raised.value.reason == Reason.BAD_IMAGE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
