import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from transrec.data.content import images
from transrec.data.content.images import ImageError, decode


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Like a photo: soft shapes of all sizes, an edge or two, and a little noise."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            ),
            np.float32,
        )
        for side in (4, 16, 64)
    ]
    pixels = 0.6 * layers[0] + 0.25 * layers[1] + 0.15 * layers[2] + rng.normal(0, 2, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 :] *= 0.4
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), [(900, 1350), (1200, 700), (513, 511)])
@pytest.mark.parametrize("size", [98, 224])
def test_leaving_out_what_cannot_be_seen_hardly_changes_a_pixel(width: int, height: int, size: int) -> None:
    data = encoded(photo(width, height), quality=90)
    whole = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    difference = np.abs(decode(data, size).astype(int) - np.asarray(whole).transpose(2, 0, 1))
    assert difference.mean() < 0.5
    assert difference.max() <= 12


def test_a_large_jpeg_is_decoded_small_but_not_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    convert = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: sizes.append(self.size) or convert(self, mode))
    decode(encoded(photo(1600, 1200)), 98)
    assert sizes == [(400, 300)]


def test_pixels_are_channels_first_rgb() -> None:
    pixels = decode(encoded(Image.new("RGB", (40, 20), (255, 0, 0)), "PNG"), 8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.uint8
    assert pixels.reshape(3, -1).tolist() == [[255] * 64, [0] * 64, [0] * 64]
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode(encoded(photo(50, 30).convert(mode), kind), 16).shape == (3, 16, 16)


def bomb(side: int) -> bytes:
    """A PNG whose header promises side² pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"GIF89a but no more", "not an image"),
        (encoded(photo(300, 300))[:4000], "truncated"),
        (encoded(photo(60, 60), "BMP"), "not an image"),
        (bomb(10_000), r"10000x10000 exceeds the limit of [\d,]+ pixels"),
    ],
    ids=["empty", "text", "truncated", "another format", "bomb"],
)
def test_what_is_no_image_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(data, 32)


def test_the_bound_is_met_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="11x10 exceeds the limit of 100"):
        decode(encoded(photo(11, 10)), 8)
