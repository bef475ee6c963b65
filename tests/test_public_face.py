"""The public API: its names, signatures and error messages."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import pydoc
from typing import TYPE_CHECKING, Any, get_type_hints
from unittest.mock import AsyncMock, create_autospec

import pytest

import parallel_requests as package
from parallel_requests import (
    ConfigurationError,
    ParallelRequests,
    ParallelSession,
    PartialFailureError,
    fastreq,
    fastreq_async,
    iter_results,
    parallel_requests,
    parallel_requests_async,
)
from parallel_requests.keywords import VERB_ARGUMENTS
from parallel_requests.options import CALL_OPTION_NAMES, OPTION_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


SPELLED_OUT = {"urls", "keys", "return_type", "parse_func", "return_none_on_failure"}
VERBS = ("get", "post", "put", "patch", "delete", "head", "options")
CLIENTS = (ParallelSession, ParallelRequests)


# -- names


def test_the_public_names_are_these() -> None:
    assert package.__all__ == [
        "Attempt",
        "BackendError",
        "BodyTooLarge",
        "ConfigurationError",
        "ConnectError",
        "DNSError",
        "DeadlineExceededError",
        "DecodeError",
        "Download",
        "DownloadError",
        "FailureDetails",
        "FastRequests",
        "FastRequestsError",
        "HTTPStatusError",
        "NormalizedResponse",
        "Options",
        "ParallelRequests",
        "ParallelRequestsError",
        "ParallelSession",
        "ParseError",
        "PartialFailureError",
        "ProtocolError",
        "ProxyError",
        "RateLimitExceededError",
        "RedirectError",
        "Request",
        "RequestItem",
        "RequestOptions",
        "RequestTimeout",
        "ResourceExhausted",
        "Response",
        "Result",
        "RetryExhaustedError",
        "RetryPolicy",
        "ReturnType",
        "RunStats",
        "RunStoppedError",
        "TLSError",
        "TokenBucket",
        "TruncatedBody",
        "ValidationError",
        "__version__",
        "backoff",
        "download",
        "fastreq",
        "fastreq_async",
        "iter_results",
        "parallel_requests",
        "parallel_requests_async",
    ]


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(package, name) is not None
    assert name in dir(package)


def test_known_names_are_aliases() -> None:
    assert fastreq is parallel_requests
    assert fastreq_async is parallel_requests_async
    assert package.FastRequests is package.ParallelRequests
    assert package.NormalizedResponse is package.Response
    assert package.FastRequestsError is package.ParallelRequestsError


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'paralel'"):
        getattr(package, "paralel")  # noqa: B009 -- mypy would refuse the attribute
    with pytest.raises(ImportError):
        exec("from parallel_requests import paralel")


def test_star_import_gives_all_names() -> None:
    names: dict[str, Any] = {}
    exec("from parallel_requests import *", names)
    assert set(package.__all__) <= set(names)


# -- signatures


def options_of(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


def test_the_one_call_verbs_show_every_option() -> None:
    assert options_of(parallel_requests) == SPELLED_OUT | OPTION_NAMES
    assert options_of(parallel_requests_async) == SPELLED_OUT | OPTION_NAMES
    assert options_of(iter_results) >= OPTION_NAMES


@pytest.mark.parametrize("client", CLIENTS)
def test_the_clients_show_every_option(client: type) -> None:
    assert options_of(client) == OPTION_NAMES


@pytest.mark.parametrize("client", CLIENTS)
def test_request_shows_the_options_of_a_call(client: Any) -> None:
    assert options_of(client.request) == SPELLED_OUT | CALL_OPTION_NAMES
    assert options_of(client.iter_results) & OPTION_NAMES == CALL_OPTION_NAMES


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_the_options_of_a_call_except_its_method(client: type, verb: str) -> None:
    function = getattr(client, verb)
    assert options_of(function) == (SPELLED_OUT | CALL_OPTION_NAMES) - {"method"}
    expected = "response" if verb in {"head", "options"} else "json"
    assert inspect.signature(function).parameters["return_type"].default == expected


@pytest.mark.parametrize("verb", ["request", "download", *VERBS])
def test_a_stand_in_for_the_asynchronous_client_can_be_awaited(verb: str) -> None:
    assert inspect.iscoroutinefunction(getattr(ParallelRequests, verb))
    assert isinstance(getattr(create_autospec(ParallelRequests, instance=True), verb), AsyncMock)


def test_the_asynchronous_client_has_all_that_a_session_has() -> None:
    of_session, of_client = ({name for name in dir(kind) if not name.startswith("_")} for kind in CLIENTS)
    assert of_client == of_session


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_shows_its_backend(client: Callable[..., Any]) -> None:
    opened = client(backend="urllib3", concurrency=7)
    with opened:
        assert opened.backend.name == "urllib3"
        assert repr(opened) == f"<{client.__name__} backend=urllib3 concurrency=7>"


def test_a_signature_shows_where_a_value_comes_from() -> None:
    assert inspect.signature(parallel_requests).parameters["timeout"].default == 30.0
    assert inspect.signature(ParallelSession).parameters["timeout"].default == 30.0
    assert repr(inspect.signature(ParallelSession.get).parameters["timeout"].default) == "<the session's>"


@pytest.mark.parametrize("function", [parallel_requests, ParallelSession.request, ParallelSession.get])
def test_help_explains_every_option(function: Callable[..., Any]) -> None:
    text = pydoc.render_doc(function)
    for name in options_of(function):
        if name in OPTION_NAMES:
            assert f"    {name}: " in text


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_explains_every_argument_and_error(client: type, verb: str) -> None:
    text = pydoc.render_doc(getattr(client, verb))
    assert f"Send {verb.upper()} to one URL or many" in text
    for name in ["urls", *SPELLED_OUT - {"urls"}, "ConfigurationError", "PartialFailureError", "TypeError"]:
        assert text.count(f"        {name}: ") == 1, name


def test_help_of_the_package_leads_to_what_it_has() -> None:
    text = package.__doc__ or ""
    for name in ["iter_results", "download", "ParallelSession", "ParallelRequests", "PartialFailureError"]:
        assert f"`{name}`" in text


# -- misspellings


MISSPELT = {"hedaers": "headers", "retrun_type": "return_type", "key": "keys", "verify_sll": "verify_ssl"}


@pytest.mark.parametrize("verb", ["request", *VERBS])
def test_a_misspelt_option_of_a_verb_names_the_closest(verb: str) -> None:
    with ParallelSession(backend="urllib3") as session:
        for misspelt, meant in MISSPELT.items():
            with pytest.raises(TypeError, match=f"'{misspelt}'; did you mean '{meant}'"):
                getattr(session, verb)([], **{misspelt: None})


async def await_verb(verb: str, **options: Any) -> None:
    async with ParallelRequests(backend="urllib3") as client:
        await getattr(client, verb)([], **options)


@pytest.mark.parametrize("verb", ["request", *VERBS])
def test_an_error_names_the_method_that_was_called(verb: str) -> None:
    unknown, of_the_session = rf"^{verb}\(\) got .*'hedaers'", rf"not to {verb}\(\)"
    with ParallelSession(backend="urllib3") as session:
        with pytest.raises(TypeError, match=unknown):
            getattr(session, verb)([], hedaers={})
        with pytest.raises(ConfigurationError, match=of_the_session):
            getattr(session, verb)([], concurrency=5)
    with pytest.raises(TypeError, match=unknown):
        asyncio.run(await_verb(verb, hedaers={}))
    with pytest.raises(ConfigurationError, match=of_the_session):
        asyncio.run(await_verb(verb, concurrency=5))


def test_keywords_that_a_subclass_adds_to_request_are_taken_by_every_verb() -> None:
    class Tenants(ParallelSession):
        def request(self, urls: Any, *, tenant: str = "", **options: Any) -> Any:
            return tenant, options["method"]

    class AsyncTenants(ParallelRequests):
        async def request(self, urls: Any, *, tenant: str = "", **options: Any) -> Any:
            return tenant, options["method"]

    async def await_verbs() -> None:
        async with AsyncTenants(backend="urllib3") as client:
            for verb in VERBS:
                assert await getattr(client, verb)([], tenant="a") == ("a", verb.upper())

    with Tenants(backend="urllib3") as session:
        for verb in VERBS:
            assert getattr(session, verb)([], tenant="a") == ("a", verb.upper())
        with pytest.raises(TypeError, match=r"^get\(\) got .*'tennant'"):
            session.get([], tenant="a", tennant="b")  # type: ignore[call-overload]
    asyncio.run(await_verbs())


def test_every_verb_passes_on_what_it_is_given() -> None:
    given: dict[str, Any] = {
        "keys": ["a"],
        "return_type": "text",
        "parse_func": len,
        "return_none_on_failure": True,
        "timeout": 5.0,
    }

    class Watched(ParallelSession):
        def request(self, urls: Any, **arguments: Any) -> Any:
            return urls, arguments

    with Watched(backend="urllib3") as session:
        for verb in VERBS:
            passed_on = getattr(session, verb)(["http://a.test/"], **given)
            assert passed_on == (["http://a.test/"], {**given, "method": verb.upper()})


@pytest.mark.parametrize("client", CLIENTS)
def test_an_error_names_the_class_that_was_called(client: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{client.__name__}\(\) got .*'concurency'"):
        client(concurency=5)


MISPLACED: dict[str, tuple[Callable[[ParallelSession, Any], object], str]] = {
    "session": (
        lambda _, options: ParallelSession(**options),
        r"ParallelSession\(\) .*'return_type'; request\(\) and iter_results\(\) take it",
    ),
    "client": (
        lambda _, options: ParallelRequests(**options),
        r"ParallelRequests\(\) .*'return_type'; request\(\) and iter_results\(\) take it",
    ),
    "request": (
        lambda session, _: session.request([], ordered=True),  # type: ignore[call-overload]
        r"request\(\) .*'ordered'; iter_results\(\) takes it",
    ),
    "get": (
        lambda session, _: session.get([], sha256=True),  # type: ignore[call-overload]
        r"get\(\) .*'sha256'; download\(\) takes it",
    ),
    "download": (
        lambda session, options: session.download([], ".", **options),
        r"download\(\) .*'return_type'; request\(\) and iter_results\(\) take it",
    ),
    "one call": (
        lambda *_: parallel_requests([], existing="keep"),  # type: ignore[call-overload]
        r"parallel_requests\(\) .*'existing'; download\(\) takes it",
    ),
}


@pytest.mark.parametrize("place", MISPLACED)
def test_a_keyword_in_the_wrong_place_is_told_where_it_belongs(place: str) -> None:
    call, expected = MISPLACED[place]
    with (
        ParallelSession(backend="urllib3") as session,
        pytest.raises(TypeError, match=f"^{expected}"),
    ):
        call(session, {"return_type": "text"})


def test_a_misspelt_option_of_the_session_is_told_where_it_belongs() -> None:
    expected = r"^get\(\) .*'concurency'; did you mean 'concurrency'\? It belongs to the session"
    with ParallelSession(backend="urllib3") as session, pytest.raises(TypeError, match=expected):
        session.get([], concurency=5)  # type: ignore[call-overload]


def test_a_verb_offers_its_own_keywords_alone() -> None:
    nonsense: dict[str, Any] = {"zzzzzz": 1}
    with ParallelSession(backend="urllib3") as session:
        with pytest.raises(TypeError, match=r"^request\(\).*'zzzzzz'") as of_request:
            session.request([], **nonsense)
        with pytest.raises(TypeError, match=r"^iter_results\(\).*'zzzzzz'") as of_iter_results:
            session.iter_results([], **nonsense)
    assert "return_none_on_failure" in str(of_request.value)
    assert "ordered" not in str(of_request.value)
    assert "ordered" in str(of_iter_results.value)
    assert "return_none_on_failure" not in str(of_iter_results.value)


@pytest.mark.parametrize("wrong", ["yes", 1, None, []], ids=repr)
def test_a_flag_is_true_or_false(wrong: Any) -> None:
    with ParallelSession(backend="urllib3") as session:
        with pytest.raises(ConfigurationError, match="must be True or False") as caught:
            session.get([], return_none_on_failure=wrong)
        assert caught.value.config_key == "return_none_on_failure"
        with pytest.raises(ConfigurationError, match="must be True or False") as caught:
            session.iter_results([], ordered=wrong)
        assert caught.value.config_key == "ordered"


@pytest.mark.parametrize(
    "wrong", [None, 5, {"url": "http://h/"}, package.Request("http://h/"), b"http://h/"], ids=repr
)
def test_urls_are_a_url_or_an_iterable(wrong: Any) -> None:
    with ParallelSession(backend="urllib3") as session:
        for call in (session.get, session.iter_results):
            with pytest.raises(ConfigurationError, match="urls must be") as caught:
                call(wrong)
            assert caught.value.config_key == "urls"
        with pytest.raises(ConfigurationError, match="urls must be"):
            session.download(wrong, "never")
    with pytest.raises(ConfigurationError, match="urls must be"):
        asyncio.run(parallel_requests_async(wrong))


@pytest.mark.parametrize("one", ["http://h/", {"url": "http://h/"}, package.Request("http://h/")], ids=repr)
def test_one_item_in_place_of_several_is_refused_with_advice(one: Any) -> None:
    with (
        ParallelSession(backend="urllib3") as session,
        pytest.raises(ConfigurationError, match="put it into a list"),
    ):
        session.iter_results(one)


async def coroutine_function(_: Any) -> None: ...


@pytest.mark.parametrize("name", ["parse_func", "on_result", "on_attempt", "progress", "stream_callback"])
def test_a_coroutine_function_is_refused_as_a_hook(name: str) -> None:
    hook: dict[str, Any] = {name: coroutine_function}
    with pytest.raises(ConfigurationError, match=f"{name} must be .*function") as caught:
        parallel_requests([], **hook)
    assert caught.value.config_key == name


def test_a_stream_callback_without_a_stream_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs return_type='stream'") as caught:
        parallel_requests([], stream_callback=print)
    assert caught.value.config_key == "return_type"


@pytest.mark.parametrize("wrong", [None, [("a", "b")], {"a b": "c"}, {"a": "b;c"}], ids=repr)
def test_cookies_that_cannot_be_sent_are_not_set(wrong: Any) -> None:
    with ParallelSession(backend="urllib3") as session:
        with pytest.raises(ConfigurationError, match="cookie") as caught:
            session.set_cookies(wrong)
        assert caught.value.config_key == "cookies"


def test_an_option_of_the_session_is_refused_by_a_call() -> None:
    with (
        ParallelSession(backend="urllib3") as session,
        pytest.raises(ConfigurationError, match="concurrency belongs to the session") as caught,
    ):
        session.get([], concurrency=5)  # type: ignore[call-overload]
    assert caught.value.config_key == "concurrency"


def test_an_option_that_downloads_have_no_use_for_is_refused_by_its_name(tmp_path: Path) -> None:
    with (
        ParallelSession(backend="urllib3") as session,
        pytest.raises(ConfigurationError, match=r"^chunk_size is of no use to download\(\)\.$") as caught,
    ):
        session.download([], tmp_path, chunk_size=1)
    assert caught.value.config_key == "chunk_size"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_one_method(verb: str) -> None:
    expected = rf"^{verb}\(\) sends {verb.upper()} and takes no 'method'; call request\(urls, method=\.\.\.\)"
    with ParallelSession(backend="urllib3") as session, pytest.raises(TypeError, match=expected):
        getattr(session, verb)([], method="POST")
    with pytest.raises(TypeError, match=expected):
        asyncio.run(await_verb(verb, method="POST"))


def test_a_wrong_option_of_iter_results_fails_at_the_call() -> None:
    with pytest.raises(ConfigurationError) as caught:
        iter_results([], concurrency=0)
    assert caught.value.config_key == "concurrency"


def test_the_types_of_public_dataclasses_resolve() -> None:
    for public in filter(dataclasses.is_dataclass, (getattr(package, name) for name in package.__all__)):
        assert get_type_hints(public).keys() >= {field.name for field in dataclasses.fields(public)}


# -- warnings


async def open_client(**options: Any) -> None:
    async with ParallelRequests(**options):
        pass


async def call_asynchronously(**options: Any) -> None:
    await parallel_requests_async([], **options)


OPENINGS: dict[str, Callable[..., object]] = {
    "ParallelSession": lambda **options: ParallelSession(**options).close(),
    "ParallelRequests": lambda **options: asyncio.run(open_client(**options)),
    "parallel_requests": lambda **options: parallel_requests([], **options),
    "iter_results": lambda **options: list(iter_results([], **options)),
    "parallel_requests_async": lambda **options: asyncio.run(call_asynchronously(**options)),
}


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("option", ["http2", "http3"])
def test_a_warning_shows_the_line_that_opened_the_session(opening: str, option: str) -> None:
    with pytest.warns(UserWarning, match=f"{option}=True has no effect") as warned:
        OPENINGS[opening](backend="urllib3", **{option: True})
    [warning] = warned
    assert warning.filename == __file__


def test_a_warning_reaches_code_without_a_module() -> None:
    code = "import parallel_requests; parallel_requests.parallel_requests([], backend='urllib3', http2=True)"
    with pytest.warns(UserWarning, match="http2=True has no effect"):
        exec(code, {})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("max_workers", "concurrency"),
        ("workers", "concurrency"),
        ("threads", "concurrency"),
        ("stream", "stream_callback"),
        ("max_connections", "concurrency"),
        ("pool_maxsize", "concurrency"),
        ("ssl", "verify_ssl"),
        ("limit", "concurrency"),
        ("limits", "concurrency"),
        ("limit_per_host", "concurrency_per_host"),
        ("size", "concurrency"),
        ("body", "data"),
        ("content", "data"),
        ("files", "data"),
        ("user_agent", "headers"),
        ("hooks", "on_attempt"),
        ("event_hooks", "on_attempt"),
        ("exception_handler", "on_result"),
        ("return_exceptions", "return_none_on_failure"),
        ("backoff_factor", "retry"),
        ("status_forcelist", "retry"),
    ],
)
def test_a_name_of_other_libraries_leads_to_ours(theirs: str, ours: str) -> None:
    options: Any = {theirs: 1}
    with pytest.raises(TypeError, match=f"'{theirs}'; did you mean '{ours}'"):
        parallel_requests([], **options)


def test_a_name_of_other_libraries_is_not_translated_to_what_is_refused() -> None:
    options: Any = {"stream": True}
    with ParallelSession() as session, pytest.raises(TypeError, match=r"'stream'\. Its options are: "):
        session.download([], ".", **options)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("verb", VERB_ARGUMENTS)
def test_what_messages_say_of_a_verb_is_what_it_takes(client: type, verb: str) -> None:
    assert options_of(getattr(client, verb)) - OPTION_NAMES == {*VERB_ARGUMENTS[verb]} | {"urls"}


def test_a_verb_lists_only_what_it_takes() -> None:
    options: Any = {"cert": "own.pem"}
    with ParallelSession() as session, pytest.raises(TypeError, match="unexpected option 'cert'") as raised:
        session.post([], **options)
    listed = str(raised.value).partition("Its options are: ")[2].rstrip(".").split(", ")
    assert listed == sorted({*CALL_OPTION_NAMES, *VERB_ARGUMENTS["request"]} - {"method"})


def test_a_token_as_auth_is_refused_with_advice() -> None:
    options: Any = {"auth": "Bearer abc"}
    with pytest.raises(ConfigurationError, match=r"auth must be .*Authorization") as raised:
        parallel_requests([], **options)
    assert "abc" not in str(raised.value)


def test_a_dict_of_urls_is_refused_with_advice() -> None:
    by_name: Any = {"first": "http://localhost/", "second": "http://localhost/"}
    with pytest.raises(ConfigurationError, match=r"urls must be .*keys="):
        parallel_requests(by_name)


def test_an_item_without_a_url_says_so() -> None:
    items: Any = [{"headers": {}}]
    with pytest.raises(PartialFailureError, match="item 0 has no url"):
        parallel_requests(items)
