"""HEAD, Host and the headers that restrict browsers, over the whole service in process."""

import re

import pytest
from starlette.testclient import TestClient

from serving import http_rules

GETS = ("/", "/health", "/v1/models", "/v1/models/champion", "/docs", "/docs.json", "/playground", "/livez", "/metrics")


@pytest.mark.parametrize("path", GETS)
def test_head_is_answered_wherever_get_is_with_the_same_headers_and_no_body(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert client.head("/nothing").status_code == 404
    assert client.head("/generate").status_code == 405
    refused = client.put(path)
    assert (refused.status_code, "HEAD" in refused.headers["allow"]) == (405, True)


@pytest.mark.parametrize("host", ["[", "[::1", "]", "a b", "a/b", "a@b", "a:b", "localhost:", "\xff", "a" * 300])
def test_an_invalid_host_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"Host": host.encode("latin-1")})  # type: ignore[dict-item]
    expected = 200 if host == "localhost:" else 400
    assert answer.status_code == expected
    assert expected == 200 or answer.json()["error"]["code"] == "bad_host"


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "[", "http://]", "\xff", "http://a:b:c", ""])
def test_an_invalid_origin_is_not_allowed(client: TestClient, origin: str) -> None:
    answer = client.get("/", headers={"Origin": origin.encode("latin-1")})  # type: ignore[dict-item]
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")


def test_every_page_has_a_policy_that_allows_its_own_scripts_alone(client: TestClient) -> None:
    for path in ("/playground", "/docs"):
        page = client.get(path)
        policy = page.headers["content-security-policy"]
        scripts = re.search("script-src ([^;]*)", policy)
        assert scripts
        assert "unsafe" not in scripts[1]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        for script in re.findall("<script>(.*?)</script>", page.text, re.DOTALL):
            assert http_rules.source_hash(script) in scripts[1]
    for path in (*GETS, "/nothing"):
        assert client.get(path).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", True),
        ("TEXT/HTML", True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("application/json, text/html;q=0.5", False),
    ],
)
def test_the_root_is_the_playground_for_browsers_and_json_for_programs(
    client: TestClient, accept: str, is_page: bool
) -> None:
    answer = client.get("/", headers={"Accept": accept})
    assert answer.headers["vary"] == "Accept"
    if is_page:
        assert answer.text == client.get("/playground").text
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    else:
        assert answer.json()["name"] == "gpt2"


def test_the_specification_has_our_title_and_version_and_our_routes_first(client: TestClient) -> None:
    specification = client.get("/docs.json").json()
    assert (specification["info"]["title"], specification["info"]["version"]) == ("Text generation", "1.0")
    assert "contact" not in specification["info"]
    assert [tag["name"] for tag in specification["tags"]] == ["Generation", "Infrastructure"]
    for path in ("/", "/health", "/generate", "/v1/completions", "/v1/models"):
        [route] = specification["paths"][path].values()
        assert route["tags"] == ["Generation"]
