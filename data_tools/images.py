"""Item images as JPEG bytes."""

import io
from pathlib import Path

from PIL import Image

from data_tools.rejects import Reason

MAX_PIXELS = 64 * 2**20
JPEG_QUALITY = 95
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class ImageError(Exception):
    """An image that cannot be used; `reason` and `detail` as in a reject."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def load_jpeg(path: Path) -> bytes:
    """Read an image that decodes: JPEG bytes as they are, other formats encoded as JPEG.

    Raises:
        ImageError: no such file, not an image, truncated, or of more than `MAX_PIXELS`.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(Reason.MISSING_IMAGE, f"{path.name}: {_describe(error)}") from None
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    Reason.BAD_IMAGE, f"{path.name}: {image.width}x{image.height} is over {MAX_PIXELS} pixels"
                )
            image.load()
            return data if data.startswith(b"\xff\xd8") else _encode_jpeg(image)
    except ImageError:
        raise
    except Exception as error:  # decoders of damaged files raise struct.error, IndexError, SyntaxError, …
        detail = "not an image" if isinstance(error, Image.UnidentifiedImageError) else _describe(error)
        raise ImageError(Reason.BAD_IMAGE, f"{path.name}: {detail}") from None


def _encode_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _describe(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
