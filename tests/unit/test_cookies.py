"""The cookies servers set."""

from __future__ import annotations

import sys
import warnings
from email.message import Message
from http.cookiejar import CookieJar
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from urllib.request import Request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests.cookie_policy import CookiePolicy
from parallel_requests.cookies import CookieStore
from parallel_requests.models import Headers

if TYPE_CHECKING:
    from collections.abc import Iterable
    from http.client import HTTPResponse

URL = "http://api.test/dir/page"


def store(*set_cookies: str, url: str = URL) -> CookieStore:
    cookies = CookieStore()
    cookies.absorb(url, Headers([("Set-Cookie", value) for value in set_cookies]))
    return cookies


def test_an_empty_store_adds_nothing() -> None:
    cookies = CookieStore()
    assert cookies.is_empty
    assert cookies.header_for(URL, None) is None
    assert cookies.header_for(URL, "own=1") == "own=1"
    cookies.absorb(URL, Headers())
    assert cookies.is_empty


def test_what_a_server_set_goes_back_to_it() -> None:
    cookies = store("a=1; Path=/", "b=2; Path=/")
    assert not cookies.is_empty
    assert cookies.header_for(URL, None) == "a=1; b=2"
    assert cookies.header_for("http://other.test/", None) is None


def test_the_callers_own_are_sent_if_no_other_fits() -> None:
    cookies = store("a=1; Path=/dir")
    for url in ("http://other.test/", "http://api.test/else"):
        assert cookies.header_for(url, "own=1") == "own=1"


@pytest.mark.parametrize("pair", ["a=\xff", "\xe9=1"])
def test_cookies_that_are_not_utf8_are_not_kept(pair: str) -> None:
    assert store(pair).is_empty
    utf8 = "a=é".encode().decode("latin-1")
    assert store(utf8).header_for(URL, None) == utf8


def test_server_cookies_override_the_callers_own() -> None:
    assert store("a=1; Path=/").header_for(URL, "a=0; own=5") == "own=5; a=1"
    two = store("a=1; Path=/", "b=2; Path=/")
    assert two.header_for(URL, "b=0;own=5; a=0") == "own=5; a=1; b=2"


@pytest.mark.parametrize(
    ("set_cookie", "url", "is_sent"),
    [
        ("a=1; Path=/dir", "http://api.test/dir/other", True),
        ("a=1; Path=/dir", "http://api.test/else", False),
        ("a=1", "http://api.test/dir/other", True),
        ("a=1", "http://api.test/else", False),
        ("a=1; Path=/; Secure", "http://api.test/", False),
        ("a=1; Path=/; Secure", "https://api.test/", True),
        ("a=1; Path=/; Domain=api.test", "http://sub.api.test/", True),
        ("a=1; Path=/", "http://sub.api.test/", False),
        ("a=1; Path=/; Domain=other.test", "http://other.test/", False),
        ("a=1; Path=/; Max-Age=0", "http://api.test/", False),
        ("a=1; Path=/; Max-Age=1000", "http://api.test/", True),
        ("a=1; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "http://api.test/", False),
    ],
)
def test_cookies_go_back_within_their_scope_and_age(set_cookie: str, url: str, is_sent: bool) -> None:
    assert (store(set_cookie).header_for(url, None) is not None) is is_sent


@pytest.mark.parametrize(
    ("host", "domain", "other"),
    [
        ("evil.test", "test", "bank.test"),
        ("evil.test.", "test.", "bank.test."),
        ("evil.co.uk", "co.uk", "bank.co.uk"),
        ("evil.co.uk", ".CO.UK", "bank.co.uk"),
        ("evil.com.au", "com.au", "bank.com.au"),
        ("evil.gov.uk", "gov.uk", "tax.gov.uk"),
        ("evil.org.nz", "org.nz", "aid.org.nz"),
        ("evil.ac.uk", "ac.uk", "good.ac.uk"),
        ("evil.edu.au", "edu.au", "good.edu.au"),
        ("evil.net.br", "net.br", "good.net.br"),
        ("evil.mil.br", "mil.br", "good.mil.br"),
        ("127.0.0.1", "0.0.1", "10.0.0.1"),
        ("127.0.0.1", ".0.1", "10.0.0.1"),
        ("app", "local", "other"),
        ("a.local", ".local", "b.local"),
    ],
)
def test_no_host_sets_cookies_for_those_of_others(host: str, domain: str, other: str) -> None:
    cookies = store(f"a=1; Path=/; Domain={domain}", url=f"http://{host}/")
    assert cookies.header_for(f"http://{other}/", None) is None


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.x.co.uk", "x.co.uk"),
        ("www.jobs.ch", "jobs.ch"),
        ("www.co.test", "co.test"),
        ("www.7.x.test", "7.x.test"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_hosts_of_one_owner_share_cookies(host: str, domain: str) -> None:
    cookies = store(f"a=1; Domain={domain}", url=f"http://{host}/")
    assert cookies.header_for(f"http://{domain}/", None) == "a=1"


@pytest.mark.parametrize(
    ("set_cookie", "url", "is_kept"),
    [
        ("__Secure-a=1; Path=/; Secure; Domain=api.test", "https://api.test/", True),
        ("__Secure-a=1; Path=/; Domain=api.test", "https://sub.api.test/", False),
        ("__Secure-a=1; Path=/; Secure; Domain=api.test", "http://sub.api.test/", False),
        ("__Host-a=1; Path=/; Secure", "https://api.test/", True),
        ("__Host-a=1; Path=/; Secure; Domain=api.test", "https://sub.api.test/", False),
        ("__Host-a=1; Path=/dir; Secure", "https://api.test/dir/", False),
        ("__host-a=1; Path=/; Secure", "http://api.test/", False),
    ],
)
def test_the_rules_of_cookie_name_prefixes_are_enforced(set_cookie: str, url: str, is_kept: bool) -> None:
    assert store(set_cookie, url=url).is_empty is not is_kept


@pytest.mark.parametrize("value", ["1\x012", "1\x1f2", "1\x7f2", "1" * 4_096])
def test_what_browsers_do_not_keep_is_not_sent_back(value: str) -> None:
    assert store(f"a={value}; Path=/", "b=2; Path=/").header_for(URL, None) == "b=2"


def test_the_largest_cookie_that_browsers_keep_is_sent_back() -> None:
    pair = "a=" + "1" * 4_095
    assert store(f"{pair}; Path=/").header_for(URL, None) == pair


def test_a_name_without_a_value_is_a_cookie() -> None:
    assert store("flag; Path=/").header_for(URL, None) == "flag"


def test_a_domains_oldest_cookies_are_dropped() -> None:
    cookies = store("other=1; Path=/; Domain=api.test", url="http://sub.api.test/")
    for number in range(1_000):
        cookies.absorb(URL, Headers([("Set-Cookie", f"c{number}=1; Path=/")]))
    header = cookies.header_for(URL, None) or ""
    assert set(header.split("; ")) == {"other=1", *(f"c{number}=1" for number in range(820, 1_000))}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "gov.uk"])
def test_any_host_gets_its_own_cookies_back(host: str) -> None:
    cookies = store("a=1; Path=/", url=f"http://{host}:8080/")
    assert cookies.header_for(f"http://{host}:8080/", None) == "a=1"


def test_a_cookie_can_be_taken_back() -> None:
    cookies = store("a=1; Path=/")
    cookies.absorb(URL, Headers({"Set-Cookie": "a=; Path=/; Max-Age=0"}))
    assert cookies.header_for(URL, None) is None


def test_a_cleared_store_is_empty() -> None:
    cookies = store("a=1; Path=/")
    cookies.clear()
    assert cookies.is_empty
    assert cookies.header_for(URL, None) is None
    cookies.absorb(URL, Headers({"Set-Cookie": "b=2; Path=/"}))
    assert cookies.header_for(URL, None) == "b=2"


@given(
    st.lists(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40), max_size=4)
)
def test_whatever_a_server_sets_does_no_harm(values: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = store(*values).header_for(URL, None)
    assert header is None or not set(header) & set("\r\n")


@given(
    st.sampled_from(["Max-Age", "Expires", "Domain", "Path", "Port", "Version"]),
    st.text("0123456789.-/ ,:GMT", max_size=30),
)
def test_whatever_attributes_a_server_sets_do_no_harm(name: str, value: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store(f"a=1; {name}={value}").header_for(URL, None)


# -- many sites


HOSTS = (
    *("a.test", "www.a.test", "x.www.a.test", "b.test", "a.b.test", "a.co.test", "b.co.test", "A.Test:8080"),
    *("a.test.", "localhost", "other", "a.local", "b.local", "127.0.0.1", "10.0.0.1", "[::1]:80"),
)
DOMAINS = [f"; Domain={host}" for host in (*HOSTS, ".local")]


def jar_of_all(answers: Iterable[tuple[str, str]]) -> CookieJar:
    """One cookie jar of the standard library for all sites, as the reference."""
    jar = CookieJar(CookiePolicy())
    for host, value in answers:
        message = Message()
        message["Set-Cookie"] = value
        answer = cast("HTTPResponse", SimpleNamespace(info=lambda message=message: message))
        jar.extract_cookies(answer, Request(f"http://{host}/"))
    return jar


@given(
    answers=st.lists(
        st.tuples(
            st.sampled_from(HOSTS),
            st.builds(
                "{}={}{}".format,
                st.sampled_from("abc"),
                st.integers(0, 9),
                st.sampled_from(
                    ["", "; Max-Age=0", *(f"; Domain={host}" for host in HOSTS), "; Domain=.local"]
                ),
            ),
        ),
        max_size=8,
    ),
    host=st.sampled_from(HOSTS),
)
def test_a_jar_for_each_site_is_as_good_as_one_for_all(answers: list[tuple[str, str]], host: str) -> None:
    cookies = CookieStore()
    for answering, value in answers:
        cookies.absorb(f"http://{answering}/", Headers([("Set-Cookie", value)]))
    jar = jar_of_all(answers)
    question = Request(f"http://{host}/")
    jar.add_cookie_header(question)
    assert cookies.header_for(f"http://{host}/", None) == question.get_header("Cookie")
    assert cookies.is_empty == (len(jar) == 0)


def test_cookies_of_other_sites_do_not_slow_requests_down() -> None:
    def calls_made(cookies: CookieStore) -> int:
        events: list[str] = []
        sys.setprofile(lambda _, event, __: events.append(event))
        cookies.header_for(URL, None)
        sys.setprofile(None)
        return len(events)

    alone, one_of_many = store("a=1; Path=/"), store("a=1; Path=/")
    for number in range(100):
        one_of_many.absorb(f"http://site-{number}.test/", Headers([("Set-Cookie", "a=1")]))
    calls_made(alone)  # what is imported and compiled, once
    assert calls_made(one_of_many) == calls_made(alone)


def test_the_least_recently_used_site_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parallel_requests.cookies._MOST_SITES", 2)
    cookies = store("a=1; Path=/")
    cookies.absorb("http://second.test/", Headers([("Set-Cookie", "a=2")]))
    assert cookies.header_for(URL, None) == "a=1"
    cookies.absorb("http://third.test/", Headers([("Set-Cookie", "a=3")]))
    assert cookies.header_for(URL, None) == "a=1"
    assert cookies.header_for("http://second.test/", None) is None
    assert cookies.header_for("http://third.test/", None) == "a=3"
