"""Every option, typed, defaulted, validated and documented once.

`Options` types the keywords of the public functions, `Settings` holds the values. A key that is
absent means "inherit": from the session, and there from the default.
"""

from __future__ import annotations

import dataclasses
import os  # noqa: TC003 - typing.get_type_hints() needs it
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor  # noqa: TC003 - likewise
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar

from parallel_requests import checks
from parallel_requests.exceptions import ConfigurationError
from parallel_requests.gates.backoff import CONDITION, POLICY, Condition, RetryPolicy
from parallel_requests.values import AT_LEAST_0, AT_LEAST_1, BOOLEAN

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

    from parallel_requests.backends.base import Backend
    from parallel_requests.models import Attempt, Request, Result
    from parallel_requests.values import Check

T = TypeVar("T")
PerUrl: TypeAlias = T | Sequence[T]
"""One value for all URLs, or one entry per URL; a tuple is one value of ``params``, ``data``, ``timeout``."""

Timeout: TypeAlias = float | tuple[float | None, float | None] | None
Params: TypeAlias = Mapping[str, Any] | tuple[tuple[str, Any], ...] | str | None
Data: TypeAlias = (
    Mapping[str, Any] | tuple[tuple[str, Any], ...] | str | bytes | bytearray | memoryview | None
)
HeaderFields: TypeAlias = Mapping[str, str | bytes | None] | None
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
    timeout: PerUrl[Timeout]
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
    rate_limit_per_host: float | None
    rate_limit_burst: int
    retry_budget: bool
    adaptive: bool
    http2: bool | None
    http3: bool
    trust_env: bool
    executor: Executor | None
    verbose: bool
    debug: bool


def _option(default: Any, check: Check, doc: str, *, per_call: bool = True) -> Any:
    return dataclasses.field(default=default, metadata={"check": check, "doc": doc, "per_call": per_call})


def _session_option(default: Any, check: Check, doc: str) -> Any:
    return _option(default, check, doc, per_call=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values of all options, validated.

    Raises:
        ConfigurationError: A value has the wrong type or is out of range.
    """

    backend: str | Backend = _session_option(
        "auto",
        checks.BACKEND,
        "HTTP library to use; auto takes the first installed of curl, niquests, aiohttp, requests, urllib3.",
    )
    concurrency: int = _session_option(
        20, AT_LEAST_1, "Maximum number of attempts in flight; pools are sized to match."
    )
    concurrency_per_host: int | None = _session_option(
        None, checks.AT_LEAST_1_OR_NONE, "Maximum number of attempts in flight per host."
    )
    rate_limit: float | Mapping[str, float] | None = _session_option(
        None,
        checks.RATE_LIMIT,
        "Maximum attempts per second; or a dict of host → rate, with '*' for all hosts together.",
    )
    rate_limit_per_host: float | None = _session_option(
        None, checks.RATE_OR_NONE, "Maximum attempts per second to each host that rate_limit does not name."
    )
    rate_limit_burst: int = _session_option(5, AT_LEAST_1, "Attempts that may be sent at once after a pause.")
    max_retries: int = _option(3, AT_LEAST_0, "Maximum number of attempts after the first.")
    retry: RetryPolicy | None = _option(None, POLICY, "A RetryPolicy, which replaces max_retries.")
    retry_on: Condition | None = _option(
        None,
        CONDITION,
        "What else to retry: an exception type or a tuple of them (HTTPStatusError for any status >= 400), "
        "or a predicate that is given the Response or the error.",
    )
    dont_retry_on: Condition | None = _option(
        None, CONDITION, "What never to retry; takes the same forms as retry_on."
    )
    retry_budget: bool = _session_option(
        True,
        BOOLEAN,
        "Stop retrying a host that is clearly down, so that retries do not amplify an outage.",
    )
    adaptive: bool = _session_option(
        False, BOOLEAN, "Adapt the concurrency per host: down on 429, 503 and timeouts, up otherwise."
    )
    timeout: PerUrl[Timeout] = _option(
        30.0, checks.TIMEOUT, "Seconds for one whole attempt, or a (connect, total) pair; None waits forever."
    )
    deadline: float | None = _option(
        None, checks.SECONDS_OR_NONE, "Seconds for the whole batch; whatever is done by then is kept."
    )
    http2: bool | None = _session_option(
        None,
        checks.BOOLEAN_OR_NONE,
        "None uses HTTP/2 if the backend supports it; True also warns if it does not.",
    )
    http3: bool = _session_option(
        False,
        BOOLEAN,
        "Try https URLs over QUIC first, then over TCP. Warns if the backend does not support it.",
    )
    method: PerUrl[str] = _option("GET", checks.METHOD, "HTTP method.")
    params: PerUrl[Params] = _option(None, checks.PARAMS, "Query parameters, added to those of the URL.")
    json: Any = _option(None, checks.JSON, "Body to send as JSON.")
    data: PerUrl[Data] = _option(None, checks.DATA, "Body: bytes, text, or form fields.")
    headers: PerUrl[HeaderFields] = _option(
        None, checks.MAPPING, "Request headers; one whose value is None is not sent."
    )
    cookies: PerUrl[Mapping[str, str] | None] = _option(
        None, checks.MAPPING, "Cookies to send to the hosts of the URLs."
    )
    proxy: PerUrl[str | Literal[False] | None] = _option(
        None,
        checks.PROXY,
        "Proxy URL; None uses one of proxies, or the environment's (see trust_env); False uses none.",
    )
    auth: tuple[str, str] | Literal["netrc"] | None = _option(
        None, checks.AUTH, "(user, password) for Basic authentication, or 'netrc'."
    )
    verify_ssl: bool | str | os.PathLike[str] = _option(
        True,
        checks.VERIFY,
        "Verify certificates; a path names the CAs to trust, and no others: a file or folder.",
    )
    trust_env: bool = _session_option(
        True,
        BOOLEAN,
        "Honour the proxy and CA variables of the environment, read when the session opens.",
    )
    follow_redirects: bool = _option(True, BOOLEAN, "Follow redirects.")
    max_redirects: int = _option(20, AT_LEAST_0, "Maximum number of redirects to follow.")
    allow_private_hosts: bool = _option(
        True, BOOLEAN, "False refuses redirects to private, loopback and link-local addresses."
    )
    secret_headers: Sequence[str] = _option(
        (),
        checks.STRINGS,
        "Headers to drop on a redirect to another origin, in addition to Authorization and cookies.",
    )
    raise_for_status: bool | None = _option(
        None,
        checks.BOOLEAN_OR_NONE,
        "Whether a final status >= 400, or one retried in vain, is a failure; None means yes, unless "
        "return_type is 'response'.",
    )
    max_response_size: int | None = _option(
        None, checks.BYTES_OR_NONE, "Maximum size of a body, in decoded bytes."
    )
    stream_callback: StreamCallback | None = _option(
        None,
        checks.HOOK,
        "Called with each chunk for return_type 'stream', and with the Request if it requires two arguments.",
    )
    chunk_size: int = _option(
        65_536, checks.BYTES_AT_LEAST_1, "Maximum size of the chunks given to stream_callback, in bytes."
    )
    parse_processes: int | ProcessPoolExecutor = _option(
        0,
        checks.PARSE_PROCESSES,
        "Number of processes that decode and run parse_func, or a ProcessPoolExecutor; 0 uses none. "
        "Context variables are not passed on to them.",
    )
    random_user_agent: bool = _option(False, BOOLEAN, "Send a random entry of user_agents with each request.")
    user_agents: Sequence[str] = _option(
        (),
        checks.STRINGS,
        "The user agents that random_user_agent chooses from; if empty, those of browsers.",
    )
    random_proxy: bool = _option(False, BOOLEAN, "Choose among proxies at random instead of in turn.")
    proxies: Sequence[str] = _option((), checks.PROXIES, "Proxy URLs to rotate through.")
    on_attempt: Callable[[Request, Attempt], object] | None = _option(
        None, checks.HOOK, "Called after each attempt with the Request and the Attempt."
    )
    on_result: Callable[[Result[Any]], object] | None = _option(
        None, checks.HOOK, "Called with each Result as it comes."
    )
    progress: bool | Callable[[int, int | None], object] = _option(
        False, checks.PROGRESS, "True shows a bar (needs tqdm); a function is called with (completed, total)."
    )
    executor: Executor | None = _session_option(
        None,
        checks.EXECUTOR,
        "Executor to run a blocking backend in; its threads also limit the attempts in flight. "
        "It is never shut down.",
    )
    verbose: bool = _session_option(False, BOOLEAN, "Log at level INFO.")
    debug: bool = _session_option(False, BOOLEAN, "Log every attempt, at level DEBUG.")

    def __post_init__(self) -> None:
        for name, check in _CHECKS:
            value = getattr(self, name)
            if not check.accepts(value):
                raise check.error(name, value)
        if self.http3 and self.http2 is False:
            raise ConfigurationError(
                "http3=True falls back to HTTP/2 if QUIC is not answered: http2 cannot be False.", "http3"
            )

    def override(self, options: Mapping[str, Any]) -> Settings:
        """Return these settings, overridden by the options of one call.

        Raises:
            ConfigurationError: A value is wrong.
        """
        if not options:
            return self
        merged = {
            name: merge_entries(getattr(self, name), options[name])
            for name in MERGED_NAMES
            if name in options
        }
        if "retry" in options:
            # A condition of the session gives way to one that the policy brings.
            conditions = {"retry_on", "dont_retry_on"} - options.keys()
            merged |= {name: None for name in conditions if getattr(options["retry"], name, None) is not None}
        elif self.retry is not None and "max_retries" in options:
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


MERGED_NAMES = ("params", "headers", "cookies")


def merge_entries(base: object, given: Any) -> Any:
    """Merge an option of ``MERGED_NAMES`` of a call into that of its session, or of an item into its call's.

    As in ``requests``, entries override those of the same name, and None adds nothing.
    """
    if given is None:
        return base
    if not isinstance(base, Mapping):
        return given
    if isinstance(given, list | tuple):
        return [merge_entries(base, entry) for entry in given]
    return {**base, **given} if isinstance(given, Mapping) else given


OPTION_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
_CHECKS: list[tuple[str, Check]] = [(name, field.metadata["check"]) for name, field in OPTION_FIELDS.items()]
OPTION_NAMES = frozenset(OPTION_FIELDS)
CALL_OPTION_NAMES = frozenset(name for name, field in OPTION_FIELDS.items() if field.metadata["per_call"])
PER_URL_NAMES = ("method", "params", "json", "data", "headers", "cookies", "timeout", "proxy")
