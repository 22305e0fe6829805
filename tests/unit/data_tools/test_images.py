import io
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import images
from data_tools.images import ImageError, load_jpeg
from data_tools.rejects import Reason


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
    with pytest.raises(ImageError, match="8x6 is over 47 pixels"):
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
    with pytest.raises(ImageError, match="9000x9000 is over") as raised:
        load_jpeg(tmp_path / "x")
    assert raised.value.reason == Reason.BAD_IMAGE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
