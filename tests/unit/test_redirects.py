"""Where a redirect leads, and what must not be sent there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests.exceptions import RedirectError, ValidationError
from parallel_requests.models import Headers, Request, Response
from parallel_requests.redirects import RedirectRules, next_hop

HEADERS = {
    "Authorization": "Bearer t",
    "Cookie": "a=1",
    "X-Key": "k",
    "Content-Type": "text/plain",
    "Content-Encoding": "gzip",
    "Accept": "*/*",
}


def hop(
    location: str,
    *,
    status: int = 302,
    method: str = "GET",
    url: str = "http://api.test/dir/a?q=1",
    rules: RedirectRules | None = None,
) -> Request | None:
    headers = {"Host": "virtual.test", **HEADERS}
    request = Request(
        url, method, headers, b"body" if method in ("POST", "PUT") else None, authority="api.test"
    )
    redirect = Response(status, Headers({"Location": location}), b"", request)
    return next_hop(request, redirect, (redirect,), rules or RedirectRules())


def followed(location: str, **options: object) -> Request:
    target = hop(location, **options)  # type: ignore[arg-type]
    assert target is not None
    return target


@pytest.mark.parametrize(
    ("location", "url", "authority"),
    [
        ("/b", "http://api.test/b", "api.test"),
        ("b", "http://api.test/dir/b", "api.test"),
        ("../b", "http://api.test/b", "api.test"),
        ("?q=2", "http://api.test/dir/a?q=2", "api.test"),
        ("//other.test/b", "http://other.test/b", "other.test"),
        ("https://other.test:444/b#part", "https://other.test:444/b", "other.test:444"),
        ("/a b", "http://api.test/a%20b", "api.test"),
        (" /b ", "http://api.test/b", "api.test"),
        ("/b\u00c3\u00a9", "http://api.test/b%C3%A9", "api.test"),
        ("/b\u00c3\u00a0", "http://api.test/b%C3%A0", "api.test"),
        ("/b \u00e9%2f", "http://api.test/b%20%E9%2F", "api.test"),
        ("http://joe:pw@other.test/b", "http://other.test/b", "other.test"),
    ],
)
def test_a_location_is_resolved_against_its_url(location: str, url: str, authority: str) -> None:
    target = followed(location)
    assert (target.url, target.authority) == (url, authority)


@pytest.mark.parametrize(
    ("status", "method", "becomes", "keeps_body"),
    [
        (301, "GET", "GET", False),
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (303, "POST", "GET", False),
        (303, "PUT", "GET", False),
        (303, "HEAD", "HEAD", False),
        (302, "PUT", "PUT", True),
        (307, "POST", "POST", True),
        (308, "POST", "POST", True),
    ],
)
def test_what_becomes_of_methods_and_bodies(status: int, method: str, becomes: str, keeps_body: bool) -> None:
    target = followed("/b", status=status, method=method)
    assert target.method == becomes
    assert target.content == (b"body" if keeps_body else None)
    had_body = method in ("POST", "PUT")
    for name in ("Content-Type", "Content-Encoding"):
        assert (name in target.headers) is (keeps_body or not had_body)


@pytest.mark.parametrize("location", ["/b", "http://api.test:80/b", "HTTP://API.test/b"])
def test_within_the_origin_all_headers_but_host_stay(location: str) -> None:
    assert followed(location).headers == HEADERS


def test_the_default_port_of_https_is_no_other_origin() -> None:
    assert followed("https://api.test:443/b", url="https://api.test/").headers == HEADERS
    assert followed("https://api.test/b", url="https://api.test:443/").headers == HEADERS


@pytest.mark.parametrize(
    "location",
    [
        "http://other.test/",
        "https://api.test/",
        "https://api.test:80/",
        "http://api.test:81/",
        "http://sub.api.test/",
    ],
)
def test_row_20_credentials_do_not_leave_the_origin(location: str) -> None:
    target = followed(location, rules=RedirectRules(secret_headers=frozenset({"x-key"})))
    assert target.headers == {"Content-Type": "text/plain", "Content-Encoding": "gzip", "Accept": "*/*"}


def test_a_redirect_without_a_location_is_not_followed() -> None:
    request = Request("http://api.test/")
    redirect = Response(302, Headers(), b"", request)
    assert next_hop(request, redirect, (redirect,), RedirectRules()) is None


def test_a_limit_of_zero_follows_no_redirect() -> None:
    with pytest.raises(RedirectError, match="more than 0"):
        hop("/b", rules=RedirectRules(limit=0))


def test_a_redirect_to_itself_is_a_loop() -> None:
    with pytest.raises(RedirectError, match="loop") as caught:
        hop("http://api.test/dir/a?q=1")
    assert len(caught.value.history) == 1
    assert caught.value.url == "http://api.test/dir/a?q=1"


def test_a_redirect_to_itself_with_another_method_is_not() -> None:
    target = followed("http://api.test/dir/a?q=1", status=303, method="POST")
    assert (target.method, target.url) == ("GET", "http://api.test/dir/a?q=1")


def test_a_redirect_to_itself_that_sets_a_cookie_is_not() -> None:
    request = Request("http://api.test/")
    redirect = Response(302, Headers({"Location": "/", "Set-Cookie": "seen=1"}), b"", request)
    assert next_hop(request, redirect, (redirect,), RedirectRules()) is not None


def test_row_21_only_private_addresses_are_refused_if_forbidden() -> None:
    rules = RedirectRules(allow_private_hosts=False)
    for location in ("http://93.184.216.34/", "http://other.test/", "/b"):
        assert hop(location, rules=rules) is not None
    with pytest.raises(RedirectError, match=r"private address 10\.0\.0\.1"):
        hop("http://10.0.0.1/", rules=rules)


def test_the_reason_for_a_refusal_is_part_of_its_sentence() -> None:
    with pytest.raises(RedirectError, match=r"must start with http:// or https://; it is not followed\.$"):
        hop("ftp://other.test/")


@pytest.mark.parametrize(
    "location",
    [
        "ftp://joe:hunter2@other.test/?token=hunter2",
        "//joe:hunter2@other.test\u2100/".encode().decode("latin-1"),  # which urljoin quotes in its error
    ],
)
def test_a_location_with_a_password_does_not_show_it(location: str) -> None:
    with pytest.raises(RedirectError) as caught:
        hop(location)
    assert "hunter2" not in str(caught.value)


def test_a_location_that_is_not_latin_1_is_not_guessed() -> None:
    with pytest.raises(RedirectError, match="its Location is not a URL"):
        hop("/caf\u20ac")


@given(st.text(max_size=40))
def test_any_location_is_a_url_or_a_redirect_error(location: str) -> None:
    try:
        target = hop(location)
    except RedirectError:
        return
    assert target is None or target.url.startswith(("http://", "https://"))


def test_a_redirect_to_another_scheme_takes_the_proxy_the_environment_names_for_it() -> None:
    proxies = {"http": "http://plain.test:1", "https": "http://secure.test:2"}
    rules = RedirectRules(proxy_for=lambda url: proxies[url.partition(":")[0]])
    request = Request(
        "http://a.test/", authority="a.test", proxy="http://plain.test:1", proxy_authorization="Bearer t"
    )
    answer = Response(302, Headers([("location", "https://a.test/")]), b"", request)

    target = next_hop(request, answer, (answer,), rules)

    assert target is not None
    assert target.proxy == "http://secure.test:2"
    assert target.proxy_authorization is None


def test_a_redirect_keeps_a_proxy_the_caller_has_named() -> None:
    rules = RedirectRules(proxy_for=lambda url: None)
    request = Request(
        "http://a.test/", authority="a.test", proxy="http://own.test:1", proxy_authorization="Bearer t"
    )
    answer = Response(302, Headers([("location", "http://b.test/")]), b"", request)

    target = next_hop(request, answer, (answer,), rules)

    assert target is not None
    assert (target.proxy, target.proxy_authorization) == ("http://own.test:1", "Bearer t")


@pytest.mark.parametrize("proxy", [None, "http://own.test:1"])
def test_a_redirect_ignores_the_environments_proxies_if_the_caller_gave_one(
    proxy: str | None,
) -> None:
    def proxy_for(_url: str) -> str:
        raise ValidationError("it cannot be used", "trust_env")

    request = Request("http://a.test/", authority="a.test", proxy=proxy)
    answer = Response(302, Headers([("location", "/b")]), b"", request)

    target = next_hop(request, answer, (answer,), RedirectRules(proxy_for=proxy_for))

    assert target is not None
    assert target.proxy == proxy
