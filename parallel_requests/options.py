"""Every option, typed, defaulted, validated and documented once.

`Options` types the keywords of the public functions, `Settings` holds the values. A key that is
absent means "inherit": from the session, and there from the default.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar

from parallel_requests.exceptions import ConfigurationError, ValidationError
from parallel_requests.gates.backoff import Condition, RetryPolicy, is_condition
from parallel_requests.quantities import is_count, is_rate, is_seconds
from parallel_requests.urls import check_url

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

    from parallel_requests.backends.base import Backend
    from parallel_requests.models import Attempt, Request, Result

T = TypeVar("T")
PerUrl: TypeAlias = T | Sequence[T]
"""One value for all URLs, or one entry per URL; in ``params`` and ``data``, a tuple is one value: pairs."""

Timeout: TypeAlias = float | tuple[float | None, float | None] | None
Params: TypeAlias = Mapping[str, Any] | tuple[tuple[str, Any], ...] | str | None
Data: TypeAlias = (
    Mapping[str, Any] | tuple[tuple[str, Any], ...] | str | bytes | bytearray | memoryview | None
)
HeaderFields: TypeAlias = Mapping[str, str | None] | None
"""Names and values; None removes a header that would otherwise be sent."""
StreamCallback: TypeAlias = Callable[[bytes], object] | Callable[[bytes, "Request"], object]


class RequestOptions(TypedDict, total=False):
    """The options that may differ from call to call; the help of `parallel_requests` explains each."""

    method: PerUrl[str]
    params: PerUrl[Params]
    json: Any
    data: PerUrl[Data]
    headers: PerUrl[HeaderFields]
    cookies: PerUrl[Mapping[str, str] | None]
    timeout: Timeout | list[Timeout]
    proxy: PerUrl[str | Literal[False] | None]
    auth: tuple[str, str] | Literal["netrc"] | None
    verify_ssl: bool | str | os.PathLike[str]
    follow_redirects: bool
    max_redirects: int
    raise_for_status: bool | None
    max_retries: int
    retry: RetryPolicy | None
    retry_on: Condition | None
    dont_retry_on: Condition | None
    deadline: float | None
    max_response_size: int | None
    stream_callback: StreamCallback | None
    chunk_size: int
    parse_processes: int | ProcessPoolExecutor
    random_user_agent: bool
    random_proxy: bool
    proxies: Sequence[str]
    user_agents: Sequence[str]
    allow_private_hosts: bool
    secret_headers: Sequence[str]
    on_attempt: Callable[[Request, Attempt], object] | None
    on_result: Callable[[Result[Any]], object] | None
    progress: bool | Callable[[int, int | None], object]


class Options(RequestOptions, total=False):
    """All options: those of a call, and those that belong to a session as a whole.

    The help of `parallel_requests` explains each.
    """

    backend: str | Backend
    concurrency: int
    concurrency_per_host: int | None
    rate_limit: float | Mapping[str, float] | None
    rate_limit_burst: int
    retry_budget: bool
    adaptive: bool
    http2: bool | None
    http3: bool
    trust_env: bool
    executor: Executor | None
    verbose: bool
    debug: bool


def _option(default: Any, doc: str, *, per_call: bool = True) -> Any:
    return dataclasses.field(default=default, metadata={"doc": doc, "per_call": per_call})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values of all options, validated.

    Raises:
        ConfigurationError: A value has the wrong type or is out of range.
    """

    backend: str | Backend = _option(
        "auto",
        "HTTP library to use; auto takes the first installed of curl, niquests, aiohttp, requests, urllib3.",
        per_call=False,
    )
    concurrency: int = _option(
        20, "Maximum number of attempts in flight; pools are sized to match.", per_call=False
    )
    concurrency_per_host: int | None = _option(
        None, "Maximum number of attempts in flight per host.", per_call=False
    )
    rate_limit: float | Mapping[str, float] | None = _option(
        None,
        "Maximum attempts per second; or a dict of host → rate, with '*' for all hosts together.",
        per_call=False,
    )
    rate_limit_burst: int = _option(5, "Attempts that may be sent at once after a pause.", per_call=False)
    max_retries: int = _option(3, "Maximum number of attempts after the first.")
    retry: RetryPolicy | None = _option(None, "A RetryPolicy, which replaces max_retries.")
    retry_on: Condition | None = _option(
        None,
        "What else to retry: an exception type or a tuple of them (HTTPStatusError for any status >= 400), "
        "or a predicate that is given the Response or the error.",
    )
    dont_retry_on: Condition | None = _option(None, "What never to retry; takes the same forms as retry_on.")
    retry_budget: bool = _option(
        True,
        "Stop retrying a host that is clearly down, so that retries do not amplify an outage.",
        per_call=False,
    )
    adaptive: bool = _option(
        False, "Adapt the concurrency per host: down on 429, 503 and timeouts, up otherwise.", per_call=False
    )
    timeout: Timeout | list[Timeout] = _option(
        30.0, "Seconds for one whole attempt, or a (connect, total) pair; None waits forever."
    )
    deadline: float | None = _option(None, "Seconds for the whole batch; whatever is done by then is kept.")
    http2: bool | None = _option(
        None, "None uses HTTP/2 if the backend supports it; True also warns if it does not.", per_call=False
    )
    http3: bool = _option(
        False,
        "Try https URLs over QUIC first, then over TCP. Warns if the backend does not support it.",
        per_call=False,
    )
    method: PerUrl[str] = _option("GET", "HTTP method.")
    params: PerUrl[Params] = _option(None, "Query parameters, added to those of the URL.")
    json: Any = _option(None, "Body to send as JSON.")
    data: PerUrl[Data] = _option(None, "Body: bytes, text, or form fields.")
    headers: PerUrl[HeaderFields] = _option(None, "Request headers; one whose value is None is not sent.")
    cookies: PerUrl[Mapping[str, str] | None] = _option(None, "Cookies to send to the hosts of the URLs.")
    proxy: PerUrl[str | Literal[False] | None] = _option(
        None, "Proxy URL; None uses one of proxies, or the environment's (see trust_env); False uses none."
    )
    auth: tuple[str, str] | Literal["netrc"] | None = _option(
        None, "(user, password) for Basic authentication, or 'netrc'."
    )
    verify_ssl: bool | str | os.PathLike[str] = _option(
        True, "Verify certificates; a path names the CA bundle to trust."
    )
    trust_env: bool = _option(
        True,
        "Honour the proxy and CA variables of the environment, read when the session opens.",
        per_call=False,
    )
    follow_redirects: bool = _option(True, "Follow redirects.")
    max_redirects: int = _option(20, "Maximum number of redirects to follow.")
    allow_private_hosts: bool = _option(
        True, "False refuses redirects to private, loopback and link-local addresses."
    )
    secret_headers: Sequence[str] = _option(
        (), "Headers to drop on a redirect to another origin, in addition to Authorization and cookies."
    )
    raise_for_status: bool | None = _option(
        None, "Whether a final status >= 400 is a failure; None means yes, unless return_type is 'response'."
    )
    max_response_size: int | None = _option(None, "Maximum size of a body, in decoded bytes.")
    stream_callback: StreamCallback | None = _option(
        None,
        "Called with each chunk for return_type 'stream'; and with the Request, if it takes two arguments.",
    )
    chunk_size: int = _option(65_536, "Maximum size of the chunks given to stream_callback, in bytes.")
    parse_processes: int | ProcessPoolExecutor = _option(
        0,
        "Number of processes that decode and run parse_func, or a ProcessPoolExecutor; 0 uses none. "
        "Context variables do not travel there.",
    )
    random_user_agent: bool = _option(False, "Send a random entry of user_agents with each request.")
    user_agents: Sequence[str] = _option((), "The user agents that random_user_agent chooses from.")
    random_proxy: bool = _option(False, "Choose among proxies at random instead of in turn.")
    proxies: Sequence[str] = _option((), "Proxy URLs to rotate through.")
    on_attempt: Callable[[Request, Attempt], object] | None = _option(
        None, "Called after each attempt with the Request and the Attempt."
    )
    on_result: Callable[[Result[Any]], object] | None = _option(None, "Called with each Result as it comes.")
    progress: bool | Callable[[int, int | None], object] = _option(
        False, "True shows a bar (needs tqdm); a function is called with (completed, total)."
    )
    executor: Executor | None = _option(
        None,
        "Executor to run a blocking backend in; its threads also limit the attempts in flight. "
        "It is never shut down.",
        per_call=False,
    )
    verbose: bool = _option(False, "Log at level INFO.", per_call=False)
    debug: bool = _option(False, "Log every attempt, at level DEBUG.", per_call=False)

    def __post_init__(self) -> None:
        for name, (accepts, expected) in _CHECKS.items():
            value = getattr(self, name)
            if not accepts(value):
                shown = f"a {type(value).__name__}" if name in _SECRETIVE else repr(value)
                raise ConfigurationError(f"{name} must be {expected}, not {shown}.", name)
        if self.http3 and self.http2 is False:
            raise ConfigurationError(
                "http3=True falls back to HTTP/2 if QUIC is not answered: http2 cannot be False.", "http3"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any], caller: str) -> Settings:
        """Build the settings of a session from the keywords its caller gave.

        Raises:
            TypeError: A keyword is not an option; the message names the closest one.
            ConfigurationError: A value is wrong.
        """
        reject_unknown(options, caller)
        return cls(**options)

    def override(self, options: Mapping[str, Any], caller: str, *, refused: Collection[str] = ()) -> Settings:
        """Return these settings, overridden by the keywords of one call.

        Args:
            options: The keywords.
            caller: The verb that was given them, one of `VERB_ARGUMENTS`.
            refused: Options that it has no use for.

        Raises:
            TypeError: A keyword is not an option; the message names the closest one.
            ConfigurationError: A value is wrong, or the option does not belong there.
        """
        if not options:
            return self
        if refused or not options.keys() <= CALL_OPTION_NAMES:
            check_call_options(options, caller, VERB_ARGUMENTS[caller], refused=refused)
        merged = {name: _laid_over(getattr(self, name), options[name]) for name in _MERGED if name in options}
        if self.retry is not None and "max_retries" in options and "retry" not in options:
            merged["retry"] = dataclasses.replace(self.retry, max_retries=options["max_retries"])
        return dataclasses.replace(self, **{**options, **merged})

    @property
    def retry_policy(self) -> RetryPolicy:
        """The policy that results from ``retry``, ``max_retries``, ``retry_on`` and ``dont_retry_on``."""
        policy = self.retry or RetryPolicy(max_retries=self.max_retries)
        if self.retry_on is not None:
            policy = dataclasses.replace(policy, retry_on=self.retry_on)
        if self.dont_retry_on is not None:
            policy = dataclasses.replace(policy, dont_retry_on=self.dont_retry_on)
        return policy


_MERGED = ("headers", "cookies")


def _laid_over(base: object, given: Any) -> Any:
    """Merge the entries of one call into those of the session, as ``requests`` does; None drops them all."""
    if not isinstance(base, Mapping):
        return given
    if isinstance(given, list | tuple):
        return [_laid_over(base, {} if entry is None else entry) for entry in given]
    return {**base, **given} if isinstance(given, Mapping) else given


def is_timeout(value: object) -> bool:
    """Whether a value is a timeout: None, seconds above 0, or a (connect, total) pair of those."""
    if isinstance(value, tuple):
        return len(value) == 2 and all(part is None or is_seconds(part) for part in value)
    return value is None or is_seconds(value)


def _is_rate_limit(value: object) -> bool:
    if isinstance(value, Mapping):
        return all((host == "*" or _is_host(host)) and is_rate(rate) for host, rate in value.items())
    return value is None or is_rate(value)


def _is_host(value: object) -> bool:
    if not isinstance(value, str) or set("/?#@") & set(value):
        return False
    try:
        check_url(f"http://{value}")
    except ValidationError:
        return False
    return True


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def is_hook(value: object) -> bool:
    """Whether a value can be called from any thread: a coroutine function would never be awaited."""
    return callable(value) and not inspect.iscoroutinefunction(value)


def _is_hook_or_none(value: object) -> bool:
    return value is None or is_hook(value)


def _are_strings(value: object) -> bool:
    return isinstance(value, list | tuple | frozenset | set) and all(isinstance(item, str) for item in value)


def _is_backend(value: object) -> bool:
    if isinstance(value, str):
        return bool(value)
    return not isinstance(value, type) and hasattr(value, "send") and hasattr(value, "open")


def _is_verify(value: object) -> bool:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value) != "" and Path(value).exists()  # Path("") is the current folder
    return isinstance(value, bool)


def _is_process_pool(value: object) -> bool:
    if not isinstance(value, Executor):
        return False
    from concurrent.futures import ProcessPoolExecutor  # slow to import, and rarely asked for

    return isinstance(value, ProcessPoolExecutor)


def is_per_url(name: str, value: object) -> bool:
    """Whether the value of an option has one entry per URL, rather than being the same for all."""
    return isinstance(value, list) or (name in _NEVER_A_TUPLE and isinstance(value, tuple))


_NEVER_A_TUPLE = frozenset({"method", "headers", "cookies", "proxy"})
"""Options in which a tuple can only mean one entry per URL."""


def _per_url(name: str, accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Check a value for all URLs, or the entries of a tuple; planning checks those of a list one by one."""

    def accepts_any(value: Any) -> bool:
        if isinstance(value, tuple) and is_per_url(name, value):
            return all(map(accepts, value))
        return isinstance(value, list) or accepts(value)

    return accepts_any


def _is_mapping(value: object) -> bool:
    return value is None or isinstance(value, Mapping)


_BOOLEAN = (_is_bool, "True or False")
_HOOK = (_is_hook_or_none, "a function, but not a coroutine function, or None")
_CONDITION = (is_condition, "an exception type, a tuple of them, a predicate or None")
_STRINGS = (_are_strings, "a list of strings")

_SECRETIVE = frozenset({"auth", "headers", "cookies", "params", "data", "proxy", "proxies"})
"""Options whose values must not be quoted in a message."""

_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "backend": (_is_backend, "the name of a backend or an instance of a Backend"),
    "concurrency": (lambda value: is_count(value, 1), "a whole number of at least 1"),
    "concurrency_per_host": (
        lambda value: value is None or is_count(value, 1),
        "a whole number of at least 1, or None",
    ),
    "rate_limit": (
        _is_rate_limit,
        "a number of attempts per second above 0, a dict of host (or host:port, or '*') to such, or None",
    ),
    "rate_limit_burst": (lambda value: is_count(value, 1), "a whole number of at least 1"),
    "max_retries": (lambda value: is_count(value, 0), "a whole number of at least 0"),
    "retry": (lambda value: value is None or isinstance(value, RetryPolicy), "a RetryPolicy or None"),
    "retry_on": _CONDITION,
    "dont_retry_on": _CONDITION,
    "retry_budget": _BOOLEAN,
    "adaptive": _BOOLEAN,
    "timeout": (
        lambda value: all(map(is_timeout, value)) if isinstance(value, list) else is_timeout(value),
        "seconds above 0, a (connect, total) pair, None, or a list with one of these per URL",
    ),
    "deadline": (lambda value: value is None or is_seconds(value), "seconds above 0, or None"),
    "http2": (lambda value: value is None or _is_bool(value), "True, False or None"),
    "http3": _BOOLEAN,
    "method": (
        _per_url("method", lambda value: isinstance(value, str)),
        "an HTTP method, or a list with one per URL",
    ),
    "params": (
        _per_url("params", lambda value: _is_mapping(value) or isinstance(value, tuple | str)),
        "a mapping, a tuple of pairs, text or None, or a list with one of these per URL",
    ),
    "data": (
        _per_url(
            "data",
            lambda value: (
                _is_mapping(value) or isinstance(value, tuple | str | bytes | bytearray | memoryview)
            ),
        ),
        "bytes, text, a mapping, a tuple of pairs or None, or a list with one of these per URL",
    ),
    "headers": (_per_url("headers", _is_mapping), "a mapping or None, or a list with one of these per URL"),
    "cookies": (_per_url("cookies", _is_mapping), "a mapping or None, or a list with one of these per URL"),
    "proxy": (
        _per_url("proxy", lambda value: value is None or value is False or isinstance(value, str)),
        "the URL of a proxy, False or None, or a list with one of these per URL",
    ),
    "auth": (
        lambda value: (
            value in (None, "netrc")
            or (isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value))
        ),
        "a (user, password) tuple, 'netrc' or None (a token goes into headers, as Authorization)",
    ),
    "verify_ssl": (_is_verify, "True, False or the path of a CA bundle that exists"),
    "trust_env": _BOOLEAN,
    "follow_redirects": _BOOLEAN,
    "max_redirects": (lambda value: is_count(value, 0), "a whole number of at least 0"),
    "allow_private_hosts": _BOOLEAN,
    "secret_headers": _STRINGS,
    "raise_for_status": (lambda value: value is None or _is_bool(value), "True, False or None"),
    "max_response_size": (
        lambda value: value is None or is_count(value, 0),
        "a whole number of bytes, or None",
    ),
    "stream_callback": _HOOK,
    "chunk_size": (lambda value: is_count(value, 1), "a whole number of bytes of at least 1"),
    "parse_processes": (
        lambda value: is_count(value, 0) or _is_process_pool(value),
        "a whole number of processes or a ProcessPoolExecutor",
    ),
    "random_user_agent": _BOOLEAN,
    "user_agents": _STRINGS,
    "random_proxy": _BOOLEAN,
    "proxies": _STRINGS,
    "on_attempt": _HOOK,
    "on_result": _HOOK,
    "progress": (lambda value: _is_bool(value) or is_hook(value), "True, False or a function"),
    "executor": (
        lambda value: value is None or (isinstance(value, Executor) and not _is_process_pool(value)),
        "a concurrent.futures executor of threads, or None",
    ),
    "verbose": _BOOLEAN,
    "debug": _BOOLEAN,
}

_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
OPTION_NAMES = frozenset(_FIELDS)
CALL_OPTION_NAMES = frozenset(name for name, field in _FIELDS.items() if field.metadata["per_call"])
VERB_ARGUMENTS = {
    "request": ("keys", "return_type", "parse_func", "return_none_on_failure"),
    "iter_results": ("keys", "return_type", "parse_func", "ordered"),
    "download": ("to", "sha256", "existing", "keys", "return_none_on_failure"),
}
"""The keywords of each verb that are not options: they affect the static type, or belong to one verb."""
NOT_FOR_DOWNLOADS = ("stream_callback", "chunk_size", "parse_processes", "raise_for_status")
"""Options that have no meaning when bodies go into files."""
PER_URL_NAMES = ("method", "params", "json", "data", "headers", "cookies", "timeout", "proxy")


_CALLED_ELSEWHERE = {
    "body": "data",
    "max_workers": "concurrency",
    "ssl": "verify_ssl",
}
"""What other libraries call an option of ours, if the spelling is too different to suggest it."""
_SESSIONS = "ParallelSession(...) or ParallelRequests(...)"


def reject_unknown(
    options: Mapping[str, Any],
    caller: str,
    *,
    taken: Collection[str] = OPTION_NAMES,
    beside: Collection[str] = (),
) -> None:
    """Check that every keyword is an option.

    Args:
        options: The keywords.
        caller: The function they were given to.
        taken: The options it takes.
        beside: Its other parameters, which a misspelt keyword may have meant, too.

    Raises:
        TypeError: A keyword is not an option; the message says what would be right.
    """
    for name in options:
        if name not in OPTION_NAMES:
            hint = _hint(name, sorted({*taken, *beside}))
            raise TypeError(f"{caller}() got an unexpected option {name!r}{hint}")


def _hint(name: str, accepted: Collection[str]) -> str:
    """Say what would be right in place of an unknown keyword, as the end of a sentence."""
    from difflib import get_close_matches

    verbs = [f"{verb}()" for verb, arguments in VERB_ARGUMENTS.items() if name in arguments]
    if verbs:
        return f"; {_enumerated(verbs)} take{'s' if len(verbs) == 1 else ''} it."
    known = sorted({*accepted, *(OPTION_NAMES - CALL_OPTION_NAMES)})
    meant = _CALLED_ELSEWHERE.get(name) or next(iter(get_close_matches(name, known, n=1)), None)
    if meant is None:
        return f". Its options are: {', '.join(accepted)}."
    if meant in accepted:
        return f"; did you mean {meant!r}?"
    return f"; did you mean {meant!r}? It belongs to the session: give it to {_SESSIONS}."


def _enumerated(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def check_call_options(
    options: Mapping[str, Any], caller: str, beside: Collection[str], *, refused: Collection[str] = ()
) -> None:
    """Check that every keyword is an option that may differ from call to call.

    Args:
        options: The keywords.
        caller: The method they were given to.
        beside: Its other parameters.
        refused: Options that it has no use for.

    Raises:
        TypeError: A keyword is not an option; the message says what would be right.
        ConfigurationError: It is one of the session's, or refused.
    """
    reject_unknown(options, caller, taken=CALL_OPTION_NAMES - {*refused}, beside=beside)
    for name in options:
        if name in refused:
            raise ConfigurationError(f"{name} is of no use to {caller}().", name)
        if name not in CALL_OPTION_NAMES:
            raise ConfigurationError(
                f"{name} belongs to the session: give it to {_SESSIONS}, not to {caller}().", name
            )


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split options into those of a session and those of a call."""
    of_call = {name: value for name, value in options.items() if name in CALL_OPTION_NAMES}
    return {name: value for name, value in options.items() if name not in of_call}, of_call


class _Inherited:
    """The default that a signature shows for an option inherited from the session."""

    def __repr__(self) -> str:
        return "<the session's>"


_INHERITED = _Inherited()

F = TypeVar("F", bound=Callable[..., Any])


def documents_options(*, session: bool, without: Collection[str] = ()) -> Callable[[F], F]:
    """List every option in the signature and the docstring of a function that takes ``**options``.

    Args:
        session: Whether to include the options of the session, or only those of a call.
        without: Options to leave out.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        shown = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {*without, *(parameter.name for parameter in shown)}
        names = [n for n in _FIELDS if n not in taken and (session or n in CALL_OPTION_NAMES)]
        shown += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_FIELDS[name].default if session else _INHERITED,
                annotation=_FIELDS[name].type,
            )
            for name in names
        ]
        function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        lines = [f"    {name}: {_FIELDS[name].metadata['doc']}" for name in names]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines])
        return function

    return decorate


def options_table() -> str:
    """Return the Markdown table of all options for the documentation."""
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    rows += [
        f"| `{name}` | `{field.default!r}` | {field.metadata['doc']} |" for name, field in _FIELDS.items()
    ]
    return "\n".join(rows)
