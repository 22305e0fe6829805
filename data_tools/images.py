"""Converts item images to JPEG bytes, upright and in RGB or grey, so that readers need not convert them."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from data_tools.rejects import Reason
from transrec.data.shards.schema import MAX_IMAGE_PIXELS

JPEG_QUALITY = 95
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_JPEG_START = b"\xff\xd8"
_BACKGROUND = "white"  # behind transparent pixels, as shops show their products
_REDUCING_GAP = 3.0  # a coarse reduction, to at least three times the final size, precedes the good filter


class ImageError(Exception):
    """An image that cannot be used; `reason` and `detail` are those of a reject."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def load_jpeg(path: Path, shorter_side: int | None = None) -> bytes:
    """Read an image, or the first frame of an animation, and check that it decodes.

    An upright JPEG in RGB or grey stays as it is, byte for byte, unless its shorter side is longer than
    `shorter_side`; any other image is re-encoded. No image is enlarged.

    Raises:
        ImageError: no such file, not an image, truncated, or more than `MAX_IMAGE_PIXELS` pixels.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(Reason.MISSING_IMAGE, f"{path.name}: {_describe(error)}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our bound is stricter
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                return _to_jpeg(image, data, shorter_side)
    except Exception as error:  # decoders raise struct.error, IndexError, SyntaxError, … on damaged files
        detail = "not an image" if isinstance(error, UnidentifiedImageError) else _describe(error)
        raise ImageError(Reason.BAD_IMAGE, f"{path.name}: {detail}") from None


def _to_jpeg(image: Image.Image, data: bytes, shorter_side: int | None) -> bytes:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.width}x{image.height} is over {MAX_IMAGE_PIXELS} pixels")
    size = _fit(image.size, shorter_side)
    upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    if data.startswith(_JPEG_START) and image.mode in ("RGB", "L") and upright and size == image.size:
        image.draft(None, (1, 1))  # the smallest scale: decoding only checks for damage
        image.load()
        return data
    if size != image.size:
        image.draft(None, (round(size[0] * _REDUCING_GAP), round(size[1] * _REDUCING_GAP)))
    rgb = _to_rgb(image)
    if size != image.size:
        rgb = rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
    return _encode(_turn_upright(rgb, image))


def _fit(size: tuple[int, int], shorter_side: int | None) -> tuple[int, int]:
    """The size with the shorter side reduced to `shorter_side`, in the same proportions."""
    shorter = min(size)
    if shorter_side is None or shorter <= shorter_side:
        return size
    width, height = (max(1, round(side * shorter_side / shorter)) for side in size)
    return width, height


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip at 255
        return Image.fromarray((np.asarray(image).clip(0, 65_535) // 256).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, _BACKGROUND)
        canvas.alpha_composite(image)
        return canvas.convert("RGB")
    return image.convert("RGB")


def _turn_upright(image: Image.Image, original: Image.Image) -> Image.Image:
    image.info["exif"] = original.getexif().tobytes()
    return ImageOps.exif_transpose(image)


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _describe(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
