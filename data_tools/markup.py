"""Removes the remains of web pages from texts: HTML tags, comments, scripts and styles, and character references.

Catalogues collected from web pages contain `Johnson &amp; Johnson`, `<p>Soft.<br/>Warm.</p>`, and titles that are
the script of a page. A text is not a page, so fewer things count as markup than in a browser:

- only tags that exist in HTML: `<Untitled>`, `a < b` and `<3` are kept;
- a tag with a one-letter name only if it has no attributes or one with a value: `a <b and c> d` is kept;
- only character references that end with a semicolon: `R&notes`, which a browser shows as `R¬es`, is kept.

Texts are often escaped twice, so the result is cleaned again. The lines of a script that has lost its tags, as in
Amazon's 2018 data, are recognised one by one and removed.

Designs considered. `html.parser` takes quadratic time for tags that do not end (a minute for 16 KB of `<a `), raises
AssertionError at `<![<`, and loses the `&` of a text that ends with `&T`. An HTML parser (lxml, html5lib) is one
more dependency and follows none of the rules above. Chosen: a regular expression that finds a tag in linear time.
"""

import html
import re
from html.entities import html5

_PASSES = 3
_TOKEN = re.compile(
    r"""<!--|<!doctype\b[^<>]*+>|<(?P<end>/?)(?P<name>[a-z][a-z0-9]*+)(?=[\s/>])(?P<rest>(?:[^<>"']++|"[^"<]*+"|'[^'<]*+')*+)>""",
    re.ASCII | re.IGNORECASE,
)
_END_OF_HIDDEN = {
    "script": re.compile(r"</script[^<>]*+>", re.ASCII | re.IGNORECASE),
    "style": re.compile(r"</style[^<>]*+>", re.ASCII | re.IGNORECASE),
    "!--": re.compile("-->"),
}
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*+);")
_STATEMENT = re.compile(r"\bvar [\w$]+ ?=|\bfunction ?\w*\(|\b(?:window|document)\.\w+ ?[=.(|]|\.getTime\(\)")
_INLINE = {
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "del", "dfn", "em", "font", "i", "ins",
    "kbd", "mark", "nobr", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var",
    "wbr",
}  # fmt: skip
# these separate words
_APART = {
    "address", "applet", "area", "article", "aside", "audio", "base", "basefont", "blockquote", "body", "br",
    "button", "canvas", "caption", "center", "col", "colgroup", "dd", "details", "dialog", "dir", "div", "dl",
    "dt", "embed", "fieldset", "figcaption", "figure", "footer", "form", "frame", "frameset", "h1", "h2", "h3",
    "h4", "h5", "h6", "head", "header", "hr", "html", "iframe", "img", "input", "label", "legend", "li", "link",
    "main", "map", "menu", "meta", "nav", "noframes", "noscript", "object", "ol", "optgroup", "option", "p",
    "param", "picture", "pre", "script", "section", "select", "source", "style", "summary", "svg", "table",
    "tbody", "td", "textarea", "tfoot", "th", "thead", "title", "tr", "track", "ul", "video",
}  # fmt: skip


def clean_text(text: str) -> str:
    """The text without markup, with single spaces for runs of white space; unchanged if it holds no markup."""
    cleaned = text
    for _ in range(_PASSES):
        before, cleaned = cleaned, _clean_once(cleaned)
        if cleaned == before:
            break
    return text if cleaned == text else " ".join(cleaned.split())


def _clean_once(text: str) -> str:
    if "<" in text:
        text = "".join(_outside_of_tags(text))
    if ";" in text or "{" in text:
        text = "\n".join(line for line in text.split("\n") if not _is_script(line))
    return _REFERENCE.sub(_decode, text) if "&" in text else text


def _outside_of_tags(text: str) -> list[str]:
    kept: list[str] = []
    position = 0
    while token := _TOKEN.search(text, position):
        kept += [text[position : token.start()], _in_place_of(token)]
        position = token.end()
        opened = "!--" if token[0] == "<!--" else (token["name"] or "").lower()
        if opened in _END_OF_HIDDEN and not token["end"] and not token[0].endswith("/>"):
            closing = _END_OF_HIDDEN[opened].search(text, position)
            position = closing.end() if closing else len(text)
    return [*kept, text[position:]]


def _in_place_of(token: re.Match[str]) -> str:
    """A space, nothing, or, if it is not markup after all, the token itself."""
    if token["name"] is None:
        return " "
    name, attributes = token["name"].lower(), token["rest"].strip(" \t\r\n/")
    if len(name) == 1 and attributes and "=" not in attributes:
        return token[0]
    return "" if name in _INLINE else " " if name in _APART else token[0]


def _is_script(line: str) -> bool:
    return (";" in line or "{" in line) and _STATEMENT.search(line) is not None


def _decode(reference: re.Match[str]) -> str:
    known = reference[0][1] == "#" or reference[0][1:] in html5
    return html.unescape(reference[0]) if known else reference[0]
