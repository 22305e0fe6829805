"""What no request gets past: limits of size, tokens, pages of other sites; and what the browser may load."""

import re
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("fastapi_offline")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import httpx2
from portable_runs import untrained
from served import Client, served
from tiny_world import Tiny

from transrec.config import ConfigError
from transrec.runs.recommender import Recommender
from transrec.serving.settings import Settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Recommender:
    return untrained(tmp_path_factory.mktemp("guarded") / "run", tiny)


@pytest.fixture(scope="module")
def client(run: Recommender) -> Iterator[Client]:
    with served([run], most_body_bytes=1000) as client:
        yield client


def test_a_body_over_the_limit_is_not_read(client: Client) -> None:
    for body in (b" " * 1001, iter([b" " * 600] * 3)):  # with its length, and in chunks without it
        answer = client.http.post("/recommend", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()) == (413, {"detail": "the body is over 1000 bytes"})
    body = b'{"history": ["item-3"]}'
    for content in (body + b" " * (1000 - len(body)), iter([body[:9], body[9:]])):
        answer = client.http.post("/recommend", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200


def test_without_a_token_only_the_service_itself_is_answered(run: Recommender) -> None:
    with served([run], token="secret") as client:
        behind_a_proxy = {"Host": "shop.example", "Origin": "https://shop.example"}
        assert client.http.post("/recommend", json={"history": ["item-3"]}, headers=behind_a_proxy).status_code == 200
        for wrong in ("", "Bearer", "Bearer secrets", "Basic secret", "secret", "Bearer sécret".encode()):
            answer = httpx2.get(f"{client.address}/channels", headers={"Authorization": wrong})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/recommend", "/similar", "/reload"):
            assert httpx2.post(f"{client.address}{path}", json={}).status_code == 401
        for path in ("/items?text=a", "/picture?item_id=a", "/metrics", "/nowhere"):
            assert httpx2.get(f"{client.address}{path}").status_code == 401
        for path in ("/", "/healthz", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"):
            assert httpx2.get(f"{client.address}{path}").status_code == 200
        assert "HTTPBearer" in httpx2.get(f"{client.address}/openapi.json").text


def test_a_page_of_another_site_may_not_ask(client: Client) -> None:
    body = {"history": ["item-3"]}
    own = client.http.post("/recommend", json=body, headers={"Origin": client.address})
    assert own.status_code == 200
    for origin in ("http://evil.example", "null", f"{client.address}.evil.example"):
        assert client.http.post("/recommend", json=body, headers={"Origin": origin}).status_code == 403
    assert client.http.get("/channels", headers={"Host": "evil.example"}).status_code == 421
    assert client.http.get("/channels", headers={"Host": "[::1"}).status_code == 421
    for name in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.http.get("/channels", headers={"Host": name}).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(client: Client) -> None:
    answer = client.http.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.findall(r"(?:https?:)?//[a-z]", answer.text)
    assert not re.search(r"\sstyle=|\son[a-z]+=\"", answer.text)  # which the policy would not allow
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_the_documentation_loads_nothing_from_elsewhere(client: Client) -> None:
    for path in ("/docs", "/redoc"):
        assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", client.http.get(path).text)
    paths = client.get("/openapi.json")[1]["paths"]
    assert paths.keys() == {
        "/recommend", "/similar", "/channels", "/items", "/picture", "/reload", "/metrics", "/healthz"
    }  # fmt: skip


def test_figures_name_routes_and_not_what_was_asked(client: Client) -> None:
    client.http.get("/some/other/path")
    figures = client.http.get("/metrics").text
    assert "some" not in figures
    assert re.search(r'transrec_requests_total\{path="other",status="404"\} \d', figures)
    assert "transrec_items 80.0" in figures


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines: set TRANSREC_TOKEN"):
        Settings(host=host)
    with pytest.raises(ConfigError, match="TRANSREC_TOKEN is empty"):
        Settings(host=host, token="")
    assert not Settings(host=host, token="secret").is_local


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert Settings(host=host).is_local
