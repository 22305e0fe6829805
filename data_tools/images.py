"""Converts item images to JPEG bytes, upright and in RGB or grey, so that readers need not convert them."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from data_tools.rejects import Reason
from transrec.data.shards.schema import MAX_IMAGE_PIXELS

JPEG_QUALITY = 95
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_FILLING_BYTES = 256
_WHITES = (1, 255, 65_535)
_TURNS = {  # EXIF orientation -> the transposition that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACKGROUND = "white"  # behind transparent pixels, as shops show their products
_REDUCING_GAP = 3.0  # a coarse reduction, to at least three times the final size, precedes the good filter


class ImageError(Exception):
    """An image that cannot be used; `reason` and `detail` are those of a reject."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Picture(NamedTuple):
    """An item's image as JPEG bytes; `remark` is the reject of an image that is kept although it is not whole."""

    jpeg: bytes
    remark: ImageError | None = None


def load_picture(source: Path | bytes, shorter_side: int | None = None) -> Picture:
    """Read an image, or the first frame of an animation, from a file or its bytes, and check that it decodes.

    An upright JPEG in RGB or grey stays as it is, byte for byte, unless its shorter side is longer than
    `shorter_side`; any other image is re-encoded, without EXIF. No image is enlarged. A JPEG that lacks only its end
    marker gets one.

    Raises:
        ImageError: no such file, not an image, truncated, or more than `MAX_IMAGE_PIXELS` pixels.
    """
    name = "image" if isinstance(source, bytes) else source.name
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(Reason.MISSING_IMAGE, f"{name}: {_describe(error)}") from None
    try:
        if not _lacks_end_marker(data):
            return Picture(_convert(data, shorter_side))
        remark = ImageError(Reason.UNFINISHED_IMAGE, f"{name}: the JPEG lacks its end marker, which was added")
        return Picture(_convert(_add_end_marker(data), shorter_side), remark)
    except Exception as error:  # decoders raise struct.error, IndexError, SyntaxError, … on damaged files
        detail = "not an image" if isinstance(error, UnidentifiedImageError) else _describe(error)
        raise ImageError(Reason.BAD_IMAGE, f"{name}: {detail}") from None


@contextmanager
def _open(data: bytes) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `MAX_IMAGE_PIXELS` is stricter
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ValueError(
                    f"{image.width}x{image.height} exceeds the limit of {MAX_IMAGE_PIXELS:,} pixels; provide a "
                    "smaller image"
                )
            yield image


def _lacks_end_marker(data: bytes) -> bool:
    """Whether this is a JPEG whose last scan is not ended; inside a scan no byte 0xff precedes 0xd9."""
    return data.startswith(_JPEG_START) and data.find(_JPEG_END, max(0, data.rfind(_JPEG_SCAN))) < 0


def _add_end_marker(data: bytes) -> bytes:
    """The JPEG with an end marker.

    Pillow does not report how far it decoded. But a decoder skips whatever follows complete image data, whereas bytes
    in place of missing image data are decoded and change the picture.

    Raises:
        OSError: more than the end marker is missing.
    """
    body = data.removesuffix(_JPEG_END[:1])
    pictures = []
    for filling in (b"\0", b"\xfe"):
        with _open(body + filling * _FILLING_BYTES + _JPEG_END) as image:
            pictures.append(image.tobytes())
    if pictures[0] != pictures[1]:
        raise OSError("image file is truncated")
    return body + _JPEG_END


def _convert(data: bytes, shorter_side: int | None) -> bytes:
    with _open(data) as image:
        return _to_jpeg(image, data, shorter_side)


def _to_jpeg(image: Image.Image, data: bytes, shorter_side: int | None) -> bytes:
    size = _fit(image.size, shorter_side)
    if data.startswith(_JPEG_START) and image.mode in ("RGB", "L") and not _turn(image) and size == image.size:
        image.draft(None, (1, 1))  # the smallest scale: decoding only checks for damage
        image.load()
        return data
    if size != image.size:
        image.draft(None, (round(size[0] * _REDUCING_GAP), round(size[1] * _REDUCING_GAP)))
    rgb = _to_rgb(image)
    turn = _turn(image)  # not before: Pillow turns a TIFF while it loads it
    if size != image.size:
        rgb = rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
    return _encode(rgb if turn is None else rgb.transpose(turn))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that turns the image upright; None if none is needed or its EXIF has no valid orientation."""
    try:
        value = image.getexif()[ExifTags.Base.Orientation]
        return _TURNS.get(int.from_bytes(value, "little") if isinstance(value, bytes) else int(value))
    except Exception:  # no EXIF, or EXIF that cannot be read
        return None


def _fit(size: tuple[int, int], shorter_side: int | None) -> tuple[int, int]:
    """The size with the shorter side reduced to `shorter_side`, in the same proportions."""
    shorter = min(size)
    if shorter_side is None or shorter <= shorter_side:
        return size
    width, height = (max(1, round(side * shorter_side / shorter)) for side in size)
    return width, height


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode[0] in "IF":  # 16 or 32 bits or floats, which PIL would clip at 255
        return Image.fromarray(_to_bytes(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, _BACKGROUND)
        canvas.alpha_composite(image)
        return canvas.convert("RGB")
    return image.convert("RGB")


def _to_bytes(shades: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """Grey levels of 0 to 255.

    In 16 bits, white is 65,535. Floats and 32 bits do not define white: it is the first of 1, 255 and 65,535 that no
    shade exceeds, or else the lightest shade.
    """
    levels = np.nan_to_num(shades.astype(np.float64), posinf=0, neginf=0).clip(0)
    top = 65_535.0 if ";16" in mode else float(levels.max())
    white = next((white for white in _WHITES if top <= white), top)
    return (levels * (255 / white)).round().astype(np.uint8)


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _describe(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
