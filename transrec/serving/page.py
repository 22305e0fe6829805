"""The page at `/`: one HTML file, which loads nothing from elsewhere."""

import base64
import hashlib
import re
from importlib.resources import files


def page() -> tuple[bytes, str]:
    """The page, and the policy that lets a browser run only its own script and style."""
    text = files("transrec.serving").joinpath("page.html").read_text(encoding="utf-8")
    allowed = {tag: _hash(re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)) for tag in ("script", "style")}
    policy = (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def _hash(element: re.Match[str] | None) -> str:
    assert element is not None
    return f"'sha256-{base64.b64encode(hashlib.sha256(element[1].encode()).digest()).decode()}'"
