"""Which URLs are valid, and how they are normalised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests.exceptions import ValidationError
from parallel_requests.urls import check_proxy, check_url, is_private, split_user_info


@pytest.mark.parametrize(
    ("url", "sent", "authority"),
    [
        ("http://api.test", "http://api.test", "api.test"),
        ("http://api.test/", "http://api.test/", "api.test"),
        ("https://api.test:8443/a/b?c=d&e=%20f", "https://api.test:8443/a/b?c=d&e=%20f", "api.test:8443"),
        ("http://api.test:65535/", "http://api.test:65535/", "api.test:65535"),
        ("http://127.0.0.1:80/", "http://127.0.0.1:80/", "127.0.0.1"),
        ("https://api.test:443", "https://api.test:443", "api.test"),
        ("http://api.test:443/", "http://api.test:443/", "api.test:443"),
        ("https://api.test:80/", "https://api.test:80/", "api.test:80"),
        ("http://api.test:8080/", "http://api.test:8080/", "api.test:8080"),
        ("http://api.test:4430/", "http://api.test:4430/", "api.test:4430"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a", "[::1]:8080"),
        ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/", "[::1]"),
        ("HTTP://API.Test/A", "http://api.test/A", "api.test"),
        ("http://API.test/A", "http://api.test/A", "api.test"),
        ("http://api.test/a#part", "http://api.test/a", "api.test"),
        ("http://api.test/ünï?q=é", "http://api.test/%C3%BCn%C3%AF?q=%C3%A9", "api.test"),
        ("http://api.test/%c3%BC?q=%e9%2f", "http://api.test/%C3%BC?q=%E9%2F", "api.test"),
        ("http://api.test/50%?q=%zz", "http://api.test/50%25?q=%25zz", "api.test"),
        ("http://bücher.test/", "http://xn--bcher-kva.test/", "xn--bcher-kva.test"),
        ("http://api.test./", "http://api.test./", "api.test."),
        ("http://under_score.test/", "http://under_score.test/", "under_score.test"),
        ("http://api.test/@scope/a:b;c,d(e)'*!~", "http://api.test/@scope/a:b;c,d(e)'*!~", "api.test"),
        ("http://joe:pw@api.test/", "http://joe:pw@api.test/", "api.test"),
        ("http://api.test:/", "http://api.test/", "api.test"),
        ("http://api.test?q=1", "http://api.test?q=1", "api.test"),
    ],
)
def test_what_is_sent(url: str, sent: str, authority: str) -> None:
    assert check_url(url) == (sent, authority)


@given(
    st.text(max_size=40)
    | st.text(max_size=40).map(lambda tail: f"http://{tail}")
    | st.text(max_size=20).map(lambda host: f"https://{host}.test/")
)
def test_anything_is_a_url_that_can_be_sent_or_a_validation_error(text: str) -> None:
    try:
        url, authority = check_url(text)
    except ValidationError:
        return
    assert url.isascii()
    assert url.startswith(("http://", "https://"))
    assert authority == authority.lower() != ""
    assert check_url(url) == (url, authority), "checked once is checked for good"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (None, "a str, not None"),
        (b"http://api.test/", "a str, not bytes"),
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("http://api.test/a\n", "strip\\(\\) it"),
        (" http://api.test/a", "strip\\(\\) it"),
        ("http://api.test/a b", "percent-encode it"),
        ("http://[fe80::1%25eth0]/", "network interface"),
        ("http://api%20test/", "host name has a character"),
        ("http://api.test[::1]/", "its host"),
        ("http://[::1].api.test:80/", "its host"),
        ("http://[v1.a]/", "its host"),
        ("http:///a", "no host"),
        ("http://::1/", "no host; an IPv6 address needs brackets"),
        ("http://api.test:0/", "port 0"),
        ("http://api.test:1٣/", "its port"),
    ],
)
def test_what_is_wrong_is_told(url: object, why: str) -> None:
    with pytest.raises(ValidationError, match=why) as caught:
        check_url(url)
    assert caught.value.field_name == "url"


@pytest.mark.parametrize(
    ("url", "clean", "credentials"),
    [
        ("http://api.test/a", "http://api.test/a", None),
        ("http://api.test/@a", "http://api.test/@a", None),
        ("http://@api.test/", "http://api.test/", None),
        ("http://:@api.test/", "http://api.test/", None),
        ("http://joe@api.test/a?b", "http://api.test/a?b", ("joe", "")),
        ("http://:pw@api.test/", "http://api.test/", ("", "pw")),
        ("http://joe:p%40@api.test:81/", "http://api.test:81/", ("joe", "p@")),
        ("http://joe:a:b@api.test/", "http://api.test/", ("joe", "a:b")),
    ],
)
def test_user_info_is_split_off(url: str, clean: str, credentials: tuple[str, str] | None) -> None:
    assert split_user_info(url) == (clean, credentials)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "::1",
        "[::1]",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "2002:7f00:1::",
        "fec0::1",
        "ff02::1",
        "224.0.0.1",
        "localhost",
        "LOCALHOST",
        "a.localhost",
        "localhost.",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
    ],
)
def test_private_hosts_are_known_in_every_spelling(host: str) -> None:
    assert is_private(host)


@pytest.mark.parametrize(
    "host",
    [
        "93.184.216.34",
        "api.test",
        "2606:4700::1111",
        "64:ff9b::93.184.216.34",
        "::ffff:93.184.216.34",
        "localhost.api.test",
        "10.api.test",
    ],
)
def test_public_hosts_are_not_private(host: str) -> None:
    assert not is_private(host)


@pytest.mark.parametrize(
    ("given", "checked"),
    [
        ("http://p.test:3128", "http://p.test:3128"),
        ("HTTP://P.Test:3128/", "http://p.test:3128"),
        ("http://u:p@ss@p.test", "http://u:p%40ss@p.test"),
        ("http://u:p%40ss@p.test", "http://u:p%40ss@p.test"),
        ("socks5h://[::1]:1080", "socks5h://[::1]:1080"),
        ("socks4a://p.test", "socks4a://p.test"),
        ("https://bücher.test:1", "https://xn--bcher-kva.test:1"),
    ],
)
def test_proxy_urls_are_normalised(given: str, checked: str) -> None:
    assert check_proxy(given) == check_proxy(checked) == checked


@pytest.mark.parametrize(
    "proxy",
    [
        "http://u:hush@p.test:no-port",
        "http://u:hush@p.test:99999",
        "http://u:hush@p.test:0",
        "http://u:hush@",
        "http://u:hush@[::1",
        "http://u:hush@p.test[::1]",
        "http://u:hush@p.test/path",
        "http://u:hush@p.test?x",
        "http://u:hu#sh@p.test",
        "http://u:hush@p .test",
        "ftp://u:hush@p.test",
        "u:hush@p.test",
        "",
        None,
        7,
    ],
)
def test_an_invalid_proxy_is_refused_and_not_quoted(proxy: object) -> None:
    with pytest.raises(ValidationError) as caught:
        check_proxy(proxy)
    assert caught.value.field_name == "proxy"
    assert "hush" not in str(caught.value)
