import io
from collections.abc import Callable
from pathlib import Path

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
    """Its header is whole: only decoding tells."""
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
    monkeypatch.setattr(images, "MAX_PIXELS", 47)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="8x6 is over 47 pixels"):
        load_jpeg(tmp_path / "x")
