"""Options: defined once, checked once, documented everywhere."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import inspect
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
from tqdm import tqdm

from parallel_requests import (
    ConfigurationError,
    ParallelRequests,
    ParallelSession,
    RetryPolicy,
    iter_results,
    parallel_requests,
)
from parallel_requests.options import (
    CALL_OPTION_NAMES,
    OPTION_NAMES,
    PER_URL_NAMES,
    Options,
    RequestOptions,
    Settings,
)


class _Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("not shown")


SECRET = "hunter2"
NAN, INFINITE = float("nan"), float("inf")


async def coroutine_function(*_: object) -> bool:
    """Return what no one would await."""
    return True


WRONG: dict[str, list[Any]] = {
    "backend": [
        5,
        "",
        None,
        SimpleNamespace(send=print),
        SimpleNamespace(open=print),
        type("Backend", (), {"send": print, "open": print}),
    ],
    "concurrency": [0, -1, 1.5, "20", True, None],
    "concurrency_per_host": [0, -1, 2.0, "3", False],
    "rate_limit": [
        0,
        -1,
        "10",
        NAN,
        INFINITE,
        True,
        {"a.test": 0},
        {5: 1},
        {"a.test": "1"},
        {"http://a.test": 1},
        {"two words": 1},
        {"::1": 1},
        {"": 1},
    ],
    "rate_limit_per_host": [0, -1, "10", NAN, INFINITE, True, {"a.test": 1}],
    "rate_limit_burst": [0, 1.5, None, "5", True],
    "max_retries": [-1, 1.5, None, "3", True],
    "retry": [3, "always", object()],
    "retry_on": [5, "ValueError", (5,), [ValueError], coroutine_function],
    "dont_retry_on": [5, (ValueError, 5), coroutine_function],
    "retry_budget": [None, 1, "yes"],
    "adaptive": [None, 1, "no"],
    "timeout": [0, -1, "30", NAN, INFINITE, 1e9 + 1, True, (1,), (1, 2, 3), (0, 5), ("a", "b"), [1, -1], {}],
    "deadline": [0, -1, "30", NAN, INFINITE, 1e9 + 1, True],
    "http2": [1, "yes"],
    "http3": [None, 1, "yes"],
    "method": [None, 5, b"GET"],
    "params": [5, 1.5, SECRET.encode(), {SECRET, "b"}],
    "data": [5, {SECRET, 2}, object()],
    "headers": [f"X: {SECRET}", 5, ("a", SECRET)],
    "cookies": [f"a={SECRET}", 5],
    "proxy": [5, True, b"http://p.test", {"http": f"http://a:{SECRET}@p.test"}],
    "auth": ["Netrc", ("user",), ["user", SECRET], ("user", 5), ("user", SECRET, "more"), 5],
    "verify_ssl": [None, 1, "", "/no/such/file.pem", "-----BEGIN CERTIFICATE-----" + "A" * 5_000],
    "trust_env": [None, 1],
    "follow_redirects": [None, 1],
    "max_redirects": [-1, 1.5, None, True],
    "allow_private_hosts": [None, 0],
    "secret_headers": ["X-Key", [5], None],
    "raise_for_status": [1, "yes"],
    "max_response_size": [-1, 1.5, "1M", True, 2**63],
    "stream_callback": [5, "print", coroutine_function],
    "chunk_size": [0, -1, 1.5, None, True],
    "parse_processes": [-1, 1.5, None, "2", True],
    "random_user_agent": [None, 1, "yes"],
    "user_agents": ["Mozilla", [5], None],
    "random_proxy": [None, 1],
    "proxies": [f"a:{SECRET}@p.test", {"https": f"http://a:{SECRET}@p.test"}, [5], None],
    "on_attempt": [5, "print", coroutine_function],
    "on_result": [5, "print", coroutine_function],
    "progress": [None, 1, "yes", coroutine_function, tqdm],
    "executor": [5, "threads"],
    "verbose": [None, 1],
    "debug": [None, 1],
}
ANY_VALUE = frozenset({"json"})


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_a_configuration_error_that_names_the_option(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"\b{name}\b") as caught:
        Settings(**{name: value})
    assert caught.value.config_key == name
    assert SECRET not in str(caught.value)


def test_a_wrong_value_is_shown() -> None:
    with pytest.raises(ConfigurationError, match=r"^concurrency must be a whole number of .* 1, not '20'\.$"):
        Settings(concurrency="20")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "found"),
    [(10**5_000, "<int>"), (_Unshowable(), "<_Unshowable>"), ("x" * 10_000, "'xxx")],
    ids=["digits", "repr", "text"],
)
def test_a_wrong_value_that_cannot_be_shown_is_named_and_a_long_one_cut_short(
    value: object, found: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"concurrency must be .*, not {found}") as caught:
        Settings(concurrency=value)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


def test_a_url_that_is_cut_short_shows_no_password() -> None:
    text = "x" * 175 + f"http://me:{SECRET * 5}@host/"
    with pytest.raises(ConfigurationError) as caught:
        Settings(concurrency=text)  # type: ignore[arg-type]
    assert SECRET[:3] not in str(caught.value)


def test_proxies_by_scheme_as_in_requests_lead_to_proxy() -> None:
    with pytest.raises(ConfigurationError, match=r"\(one for all calls is proxy=\), not dict\.$"):
        Settings(proxies={"https": "http://p.test"})  # type: ignore[arg-type]


def test_every_option_has_wrong_values() -> None:
    assert set(WRONG) | ANY_VALUE == OPTION_NAMES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend", SimpleNamespace(send=print, open=print)),
        ("concurrency", 1),
        ("concurrency_per_host", 1),
        ("rate_limit_burst", 1),
        ("chunk_size", 1),
        ("max_retries", 0),
        ("max_redirects", 0),
        ("max_response_size", 0),
        ("max_response_size", sys.maxsize),
        ("parse_processes", 0),
        ("timeout", 1e9),
        ("rate_limit", 0.5),
        ("rate_limit", sys.float_info.max),
        ("rate_limit_per_host", 0.5),
        ("rate_limit", {"a.test": 1, "*": 50.0}),
        ("timeout", None),
        ("timeout", (None, 5)),
        ("timeout", [1, None, (2, 3)]),
        ("retry", RetryPolicy(max_retries=1)),
        ("retry_on", (ValueError, OSError)),
        ("retry_on", ValueError),
        ("retry_on", lambda outcome: False),
        ("auth", ("user", "password")),
        ("auth", "netrc"),
        ("verify_ssl", __file__),
        ("verify_ssl", Path(__file__)),
        ("proxy", False),
        ("params", (("a", 1), ("a", 2))),
        ("headers", [{"X": "1"}, None]),
        ("headers", ({"X": "1"}, None)),
        ("method", ("GET", "POST")),
        ("proxy", ("http://p.test", False, None)),
        ("deadline", 0.5),
        ("user_agents", ("a", "b")),
        ("user_agents", ["a", "b"]),
        ("secret_headers", {"a", "b"}),
        ("secret_headers", frozenset({"a", "b"})),
        ("progress", print),
        ("on_result", print),
    ],
)
def test_right_values_are_kept_as_given(name: str, value: Any) -> None:
    assert getattr(Settings(**{name: value}), name) == value


def test_http3_needs_http2_to_fall_back_to() -> None:
    assert Settings(http3=True, http2=True).http3
    assert Settings(http2=False).http2 is False
    with pytest.raises(ConfigurationError, match="http2") as caught:
        Settings(http3=True, http2=False)
    assert caught.value.config_key == "http3"


def test_executor_takes_threads_and_parse_processes_a_process_pool() -> None:
    with ThreadPoolExecutor(1) as threads:
        assert Settings(executor=threads).executor is threads
        with pytest.raises(ConfigurationError):
            Settings(parse_processes=threads)  # type: ignore[arg-type]
    with ProcessPoolExecutor(1) as processes:
        assert Settings(parse_processes=processes).parse_processes is processes
        with pytest.raises(ConfigurationError):
            Settings(executor=processes)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")
def test_executor_takes_no_interpreters_although_they_are_threads_as_well() -> None:
    with concurrent.futures.InterpreterPoolExecutor(1) as interpreters:  # type: ignore[attr-defined]
        with pytest.raises(ConfigurationError):
            Settings(executor=interpreters)
        with pytest.raises(ConfigurationError):
            Settings(parse_processes=interpreters)


@pytest.mark.parametrize(
    ("misspelt", "closest"),
    [
        ("concurency", "concurrency"),
        ("time_out", "timeout"),
        ("header", "headers"),
        ("retries", "max_retries"),
        ("verify", "verify_ssl"),
    ],
)
def test_a_misspelt_option_is_a_type_error_that_names_the_closest(misspelt: str, closest: str) -> None:
    options: Any = {misspelt: 1}
    with pytest.raises(TypeError, match=rf"ParallelSession\(\).*{misspelt!r}.*{closest!r}\?$"):
        ParallelSession(**options)
    with pytest.raises(TypeError, match=rf"parallel_requests\(\).*{misspelt!r}.*{closest!r}\?$"):
        parallel_requests([], **options)
    with pytest.raises(TypeError, match=rf"iter_results\(\).*{misspelt!r}.*{closest!r}\?$"):
        iter_results([], **options)


def test_an_option_like_nothing_lists_them_all() -> None:
    options: Any = {"xyzzy": 1}
    with pytest.raises(TypeError, match=r"concurrency, .*timeout"):
        ParallelSession(**options)


# -- said once


def test_the_typed_dicts_and_the_settings_have_the_same_keys() -> None:
    assert (
        set(Options.__annotations__) == OPTION_NAMES == {field.name for field in dataclasses.fields(Settings)}
    )
    assert set(RequestOptions.__annotations__) == CALL_OPTION_NAMES
    assert set(PER_URL_NAMES) < CALL_OPTION_NAMES


def test_they_have_the_same_types() -> None:
    written = {field.name: field.type for field in dataclasses.fields(Settings)}
    for name, reference in Options.__annotations__.items():
        assert reference.__forward_arg__ == written[name]


def test_every_option_is_documented() -> None:
    for field in dataclasses.fields(Settings):
        assert field.metadata["doc"].endswith("."), field.name


@pytest.mark.parametrize(
    "function", [parallel_requests, iter_results, ParallelSession, ParallelSession.__init__]
)
def test_signature_and_help_show_every_option(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    for field in dataclasses.fields(Settings):
        assert parameters[field.name].default == field.default
        assert parameters[field.name].annotation == field.type
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        if function is not ParallelSession:
            assert f"{field.name}: {field.metadata['doc']}" in (function.__doc__ or "")


@pytest.mark.parametrize("verb", ["request", "iter_results", "download"])
def test_the_help_of_a_coroutine_describes_its_arguments(verb: str) -> None:
    text = inspect.getdoc(getattr(ParallelRequests, verb)) or ""
    titles = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == ["Args:", "Raises:", "Options:"]
    assert not text.startswith("Args:"), "a summary comes first"
    for name in inspect.signature(getattr(ParallelRequests, verb)).parameters:
        assert name == "self" or f"\n    {name}: " in text


def test_the_defaults_are_those_of_the_design() -> None:
    settings = Settings()
    assert (settings.backend, settings.concurrency, settings.max_retries) == ("auto", 20, 3)
    assert (settings.timeout, settings.rate_limit, settings.rate_limit_burst) == (30.0, None, 5)
    assert (settings.follow_redirects, settings.verify_ssl, settings.trust_env) == (True, True, True)
    assert (settings.random_user_agent, settings.random_proxy, settings.raise_for_status) == (
        False,
        False,
        None,
    )


# -- inheritance


def test_an_absent_key_inherits_and_none_switches_off() -> None:
    session = Settings(timeout=5.0, max_retries=1)
    assert session.override({}) is session
    call = session.override({"timeout": None})
    assert (call.timeout, call.max_retries, session.timeout) == (None, 1, 5.0)


def test_params_headers_and_cookies_of_a_call_are_merged_into_those_of_the_session() -> None:
    params, headers, cookies = {"p": "1"}, {"A": "1", "B": "1"}, {"a": "1"}
    session = Settings(params=params, headers=headers, cookies=cookies)
    call = session.override({"params": {"q": "2"}, "headers": {"B": "2"}, "cookies": {"b": "2"}})
    assert call.params == {"p": "1", "q": "2"}
    assert call.headers == {"A": "1", "B": "2"}
    assert call.cookies == {"a": "1", "b": "2"}
    for own in ([{"B": "3"}, None], ({"B": "3"}, None)):
        per_url = session.override({"headers": own})
        assert per_url.headers == [{"A": "1", "B": "3"}, {"A": "1", "B": "1"}]
    assert Settings().override({"headers": {"B": "2"}}).headers == {"B": "2"}
    nothing = session.override({"params": None, "headers": None, "cookies": None})
    assert (nothing.params, nothing.headers, nothing.cookies) == (params, headers, cookies)


def test_conditions_given_as_options_override_those_of_the_policy() -> None:
    assert Settings().retry_policy == RetryPolicy(max_retries=3)
    own = RetryPolicy(max_retries=9, backoff_factor=0.5)
    combined = Settings(retry=own, retry_on=ValueError, dont_retry_on=KeyError).retry_policy
    assert combined == dataclasses.replace(own, retry_on=ValueError, dont_retry_on=KeyError)
    assert Settings(retry=combined).retry_policy == combined


def test_the_types_resolve() -> None:
    from parallel_requests.backends import base
    from parallel_requests.models import Attempt, Request, Response, Result

    names = {
        "Backend": base.Backend,
        "Attempt": Attempt,
        "Request": Request,
        "Response": Response,
        "Result": Result,
    }
    assert (
        set(get_type_hints(Options, localns={**names, "ProcessPoolExecutor": ProcessPoolExecutor}))
        == OPTION_NAMES
    )


def test_a_calls_max_retries_overrides_the_sessions_policy() -> None:
    session = Settings(retry=RetryPolicy(max_retries=5, backoff_factor=0.1))
    call = session.override({"max_retries": 1})
    assert call.retry_policy == RetryPolicy(max_retries=1, backoff_factor=0.1)
    assert session.override({"timeout": 1}).retry_policy == session.retry_policy
    own = RetryPolicy(max_retries=9)
    assert session.override({"retry": own, "max_retries": 1}).retry_policy == own
    assert Settings().override({"max_retries": 1}).retry_policy == RetryPolicy(max_retries=1)


def test_the_conditions_in_a_calls_policy_override_those_of_the_session() -> None:
    session = Settings(retry_on=ValueError, dont_retry_on=KeyError)
    own = RetryPolicy(retry_on=OSError)
    assert session.override({"retry": own}).retry_policy == RetryPolicy(
        retry_on=OSError, dont_retry_on=KeyError
    )
    assert session.override({"retry": RetryPolicy(dont_retry_on=OSError)}).retry_policy == RetryPolicy(
        retry_on=ValueError, dont_retry_on=OSError
    )
    call = session.override({"retry": own, "retry_on": TypeError})
    assert call.retry_policy.retry_on is TypeError
