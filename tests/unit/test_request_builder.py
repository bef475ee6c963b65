"""What a URL and its options become: its query, its body, its headers, its credentials and its proxy."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests.environment import Environment
from parallel_requests.exceptions import ConfigurationError, ValidationError
from parallel_requests.user_agents import BROWSER_USER_AGENTS
from tests.unit.planned import SECRET, URL, header, plan, plan_one

if TYPE_CHECKING:
    from collections.abc import Mapping


class NewestFirst(str):
    """Text that str() does not return, as a member of an enum that is a str, too."""

    __slots__ = ()

    def __str__(self) -> str:
        return "NewestFirst"


# -- bodies and queries


@pytest.mark.parametrize(
    ("options", "content", "content_type"),
    [
        ({}, None, None),
        ({"json": {"a": "é"}}, '{"a":"é"}'.encode(), "application/json"),
        ({"json": 0}, b"0", "application/json"),
        ({"data": b"raw"}, b"raw", None),
        ({"data": bytearray(b"raw")}, b"raw", None),
        ({"data": "é"}, "é".encode(), None),
        ({"data": {}}, None, None),
        ({"data": ()}, None, None),
        ({"data": {"a": 1, "b": ["x", "y z"]}}, b"a=1&b=x&b=y+z", "application/x-www-form-urlencoded"),
        ({"data": (("a", 1), ("a", 2))}, b"a=1&a=2", "application/x-www-form-urlencoded"),
        ({"data": {"a": bytearray(b"x y")}}, b"a=x+y", "application/x-www-form-urlencoded"),
        (
            {"json": {}, "headers": {"content-type": "application/vnd.api+json"}},
            b"{}",
            "application/vnd.api+json",
        ),
    ],
)
def test_bodies_become_bytes_with_their_content_type(
    options: dict[str, Any], content: bytes | None, content_type: str | None
) -> None:
    request = plan_one(**options)
    assert request.content == content
    assert header(request, "content-type") == content_type


def test_json_and_data_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="both"):
        plan_one(json={}, data=b"")


@pytest.mark.parametrize(
    ("url", "params", "expected"),
    [
        (URL, {"a": 1, "b": "x y"}, f"{URL}?a=1&b=x+y"),
        (f"{URL}?z=0", {"a": [1, 2]}, f"{URL}?z=0&a=1&a=2"),
        (URL, {"a": None}, URL),
        (URL, {"a": ["x", None, b"y"], "b": [None], "c": []}, f"{URL}?a=x&a=y"),
        (URL, {"a": NewestFirst("-date"), "b": [NewestFirst("-date")]}, f"{URL}?a=-date&b=-date"),
        (URL, {NewestFirst("sort"): 1, b"b": 2, 3: 4}, f"{URL}?sort=1&b=2&3=4"),
        (URL, {"a": range(2), "b": {"x"}, "c": memoryview(b"x")}, f"{URL}?a=0&a=1&b=x&c=x"),
        (URL, {}, URL),
        (URL, "?a=1&b=é", f"{URL}?a=1&b=%C3%A9"),
        (URL, (("a", "1"), ("a", "2")), f"{URL}?a=1&a=2"),
        (f"{URL}#part", {"a": 1}, f"{URL}?a=1"),
    ],
)
def test_params_join_the_query(url: str, params: Any, expected: str) -> None:
    assert plan_one(url, params=params).url == expected


def test_cookies_of_other_types_become_text() -> None:
    request = plan_one(cookies={"a": b"x", "b": 5, "c": True, "d": None, "e": NewestFirst("-date")})
    assert header(request, "cookie") == "a=x; b=5; c=True; e=-date"


def test_header_values_of_other_types_become_text() -> None:
    request = plan_one(headers={"X-Number": 5, "X-Bytes": b"caf\xe9", "User-Agent": None, "X-Space": "  a  "})
    assert header(plan_one(headers={"X": NewestFirst("-date")}), "x") == "-date"
    assert header(request, "x-number") == "5"
    assert header(request, "x-bytes") == "café"
    assert header(request, "x-space") == "a"
    assert header(request, "user-agent") is None


def test_header_names_are_compared_case_insensitively() -> None:
    request = plan_one(headers={"user-agent": "mine", "COOKIE": "a=1"}, cookies={"b": "2"})
    assert header(request, "User-Agent") == "mine"
    assert header(request, "cookie") == "a=1; b=2"
    assert request.headers["Cookie"] == "a=1; b=2"
    loud = plan_one(headers={b"USER-AGENT": b"mine"})
    assert [name for name in loud.headers if name.lower() == "user-agent"] == ["USER-AGENT"]


@pytest.mark.parametrize(
    ("own", "sent"),
    [("b=1", "b=1; c=3"), ("a=1;b=1", "a=1;b=1; c=3"), ("a=1 ; b =1", "a=1 ; b =1; c=3"), ("", "b=2; c=3")],
)
def test_the_callers_own_cookie_header_takes_precedence(own: str, sent: str) -> None:
    request = plan_one(headers={"Cookie": own}, cookies={"b": "2", "c": "3"})
    assert header(request, "cookie") == sent


def test_cookies_of_an_item_override_those_of_the_session() -> None:
    [request] = plan([{"url": URL, "cookies": {"c": "3", "d": None}}], session_cookies={"a": "1", "c": "0"})
    assert header(request, "cookie") == "a=1; c=3"


# -- who it is from


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def test_user_info_moves_out_of_the_url() -> None:
    request = plan_one(f"http://joe:p%40ss@api.test:81/a?b=1#{SECRET}")
    assert request.url == "http://api.test:81/a?b=1"
    assert header(request, "authorization") == basic("joe", "p@ss")
    assert request.authority == "api.test:81"


def test_auth_becomes_basic_authentication() -> None:
    assert header(plan_one(auth=("joe", "pässword")), "authorization") == basic("joe", "pässword")


def test_the_callers_own_authorization_wins() -> None:
    for options in ({"auth": ("joe", "x")}, {}):
        request = plan_one("http://a:b@api.test/", headers={"authorization": "Bearer t"}, **options)
        assert header(request, "authorization") == "Bearer t"


def test_user_and_password_in_a_url_override_auth_and_a_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("default login joe password x\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    for auth in (("joe", "x"), "netrc"):
        request = plan_one(f"http://ann:{SECRET}@api.test/", auth=auth)
        assert header(request, "authorization") == basic("ann", SECRET)


def test_netrc_only_when_asked_for_and_never_over_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text(f"machine api.test login joe password {SECRET}\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    assert header(plan_one(), "authorization") is None
    assert header(plan_one(auth="netrc"), "authorization") == basic("joe", SECRET)
    assert header(plan_one("http://other.test/", auth="netrc"), "authorization") is None
    assert (
        header(plan_one(auth="netrc", headers={"Authorization": "Bearer t"}), "authorization") == "Bearer t"
    )


@pytest.mark.parametrize("content", [None, "machine"])
def test_a_netrc_that_cannot_be_read(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("NETRC", str(file))
    with pytest.raises(ConfigurationError, match="netrc") as caught:
        plan([URL], auth="netrc")
    assert caught.value.config_key == "auth"


def test_random_user_agents_are_drawn_from_the_given_ones() -> None:
    agents = ["a/1", "b/2"]
    found = {
        header(request, "user-agent")
        for request in plan([URL] * 64, random_user_agent=True, user_agents=agents)
    }
    assert found == set(agents)
    own = plan([URL] * 8, random_user_agent=True, user_agents=agents, headers={"User-Agent": "mine"})
    assert {header(request, "user-agent") for request in own} == {"mine"}


def test_random_user_agents_are_those_of_browsers_if_none_are_given() -> None:
    found = {header(request, "user-agent") for request in plan([URL] * 256, random_user_agent=True)}
    assert found == set(BROWSER_USER_AGENTS)


# -- the way there


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "http://a.test/", None),
        ({"HTTP_PROXY": "http://p.test:1"}, "http://a.test/", "http://p.test:1"),
        ({"HTTP_PROXY": "http://p.test:1"}, "https://a.test/", None),
        ({"https_proxy": "p.test:1"}, "https://a.test/", "http://p.test:1"),
        ({"ALL_PROXY": "socks5://p.test:1"}, "http://a.test/", "socks5://p.test:1"),
        ({"HTTP_PROXY": "http://upper", "http_proxy": "http://lower"}, "http://a.test/", "http://lower"),
        ({"http_proxy": "http://low", "X": "", "HTTP_PROXY": "http://up"}, "http://a.test/", "http://low"),
        ({"HTTP_PROXY": "http://upper", "http_proxy": ""}, "http://a.test/", None),
        ({"HTTP_PROXY": "http://upper", "http_proxy": "", "ALL_PROXY": ""}, "http://a.test/", None),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "a.test,b.test"}, "http://a.test/", None),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": ".test"}, "http://deep.a.test:81/", None),
        ({"HTTP_PROXY": "http://p.test", "no_proxy": "*"}, "http://a.test/", None),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "b.test"}, "http://a.test/", "http://p.test"),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "b.test, ::1"}, "http://[0:0::1]:81/", None),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "[::1]"}, "http://[::1]/", None),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "[0::1]"}, "http://[::1]/", None),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "a.test"}, "http://joe:b@a.test/", None),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "fd00::/8,10.0.0.0/8"}, "http://[fd12::1]/", None),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "fd00::/8,10.9.9.9/8"}, "http://10.1.2.3:81/", None),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "10.0.0.0/8"}, "http://11.1.2.3/", "http://p.test"),
        ({"HTTP_PROXY": "http://p.test", "NO_PROXY": "0.0.0.0/0"}, "http://a.test/", "http://p.test"),
        ({"HTTP_PROXY": "http://p.test", "REQUEST_METHOD": "GET"}, "http://a.test/", None),
        ({"http_proxy": "http://p.test", "REQUEST_METHOD": "GET"}, "http://a.test/", "http://p.test"),
        ({"HTTP_PROXY_PORT": "3128", "HTTP_PROXY_USER": "joe"}, "http://a.test/", None),
        ({"HTTP": "http://p.test", "ALL": "http://p.test"}, "http://a.test/", None),
    ],
)
def test_row_22_proxies_of_the_environment_are_used_unless_others_are_given(
    variables: Mapping[str, str], url: str, proxy: str | None
) -> None:
    assert plan_one(url, environment=Environment(variables=variables)).proxy == proxy
    assert plan_one(url, environment=Environment(trust=False, variables=variables)).proxy is None
    assert plan_one(url, environment=Environment(variables=variables), proxy=False).proxy is None
    explicit = plan_one(url, environment=Environment(variables=variables), proxy="http://own.test")
    assert explicit.proxy == "http://own.test"


def test_a_proxy_of_the_environment_that_cannot_be_used_is_said_to_come_from_there() -> None:
    environment = Environment(variables={"HTTP_PROXY": f"ftp://joe:{SECRET}@p.test"})
    with pytest.raises(
        ValidationError, match="the proxy that the environment names cannot be used"
    ) as caught:
        plan_one(environment=environment)
    assert caught.value.field_name == "trust_env"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_row_22_ca_bundles_of_the_environment_are_used_unless_others_are_given(variable: str) -> None:
    environment = Environment(variables={variable: "/etc/ca.pem"})
    assert plan_one(environment=environment).verify == "/etc/ca.pem"
    assert plan_one(environment=environment, verify_ssl=False).verify is False
    for file in (__file__, Path(__file__)):
        assert plan_one(environment=environment, verify_ssl=file).verify == __file__
    assert plan_one(environment=Environment(trust=False, variables={variable: "/etc/ca.pem"})).verify is True


def test_proxies_take_turns() -> None:
    proxies = ["http://p1.test", "http://p2.test"]
    assert [request.proxy for request in plan([URL] * 4, proxies=proxies)] == proxies * 2


def test_random_proxies_and_user_agents_do_not_take_turns() -> None:
    """Draws that alternate 64 times are possible, too: once in 10**19 runs."""
    proxies, agents = ["http://p1.test", "http://p2.test"], ["a/1", "b/2"]
    requests = plan(
        [URL] * 64, proxies=proxies, random_proxy=True, user_agents=agents, random_user_agent=True
    )
    for drawn, entries in (
        ([request.proxy for request in requests], proxies),
        ([header(request, "user-agent") for request in requests], agents),
    ):
        assert set(drawn) == set(entries)
        assert drawn not in (entries * 32, entries[::-1] * 32)


@pytest.mark.parametrize("options", [{"random_proxy": True}, {"proxies": ["nonsense"]}])
def test_proxies_that_are_missing_or_wrong_are_a_configuration_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan([URL], **options)
    assert caught.value.config_key == "proxies"


@pytest.mark.parametrize("proxy", ["nonsense", "ftp://p.test", "http://", "http://a b", ""])
def test_a_wrong_proxy_for_all_is_a_configuration_error(proxy: str) -> None:
    with pytest.raises(ConfigurationError, match="proxy"):
        plan([URL], proxy=proxy)
    [bad] = plan([{"url": URL, "proxy": proxy}])
    assert bad.problem is not None
