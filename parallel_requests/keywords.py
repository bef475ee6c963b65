"""The options as keywords of the public functions: what is said of a wrong one, and how they are shown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from parallel_requests.exceptions import ConfigurationError
from parallel_requests.options import CALL_OPTION_NAMES, OPTION_FIELDS, OPTION_NAMES

F = TypeVar("F", bound=Callable[..., Any])

VERB_ARGUMENTS = {
    "request": ("keys", "return_type", "parse_func", "return_none_on_failure"),
    "iter_results": ("keys", "return_type", "parse_func", "ordered"),
    "download": ("to", "sha256", "existing", "keys", "return_none_on_failure"),
}
"""The keywords of each verb that are not options: they affect the static type, or belong to one verb."""
NOT_FOR_DOWNLOADS = ("stream_callback", "chunk_size", "parse_processes", "raise_for_status")
"""Options that have no meaning when bodies go into files."""
_CALLED_ELSEWHERE = {
    "backoff_factor": "retry",
    "body": "data",
    "content": "data",
    "event_hooks": "on_attempt",
    "exception_handler": "on_result",
    "files": "data",
    "hooks": "on_attempt",
    "limit": "concurrency",
    "limit_per_host": "concurrency_per_host",
    "limits": "concurrency",
    "max_connections": "concurrency",
    "max_workers": "concurrency",
    "pool_maxsize": "concurrency",
    "return_exceptions": "return_none_on_failure",
    "size": "concurrency",
    "ssl": "verify_ssl",
    "status_forcelist": "retry",
    "stream": "stream_callback",
    "threads": "concurrency",
    "user_agent": "headers",
    "workers": "concurrency",
}
"""What other libraries call a keyword of ours, if the spelling alone suggests none, or another one."""
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
    meant = _CALLED_ELSEWHERE.get(name, "")
    if meant not in known:
        meant = next(iter(get_close_matches(name, known, n=1)), "")
    if not meant:
        return f". Its options are: {', '.join(accepted)}."
    if meant in accepted:
        return f"; did you mean {meant!r}?"
    return f"; did you mean {meant!r}? It belongs to the session: give it to {_SESSIONS}."


def _enumerated(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def check_call_options(
    options: Mapping[str, Any], caller: str, verb: str, *, refused: Collection[str] = ()
) -> None:
    """Check that every keyword is an option that may differ from call to call.

    Args:
        options: The keywords.
        caller: The method they were given to.
        verb: The one of `VERB_ARGUMENTS` whose other parameters it has.
        refused: Options that it has no use for.

    Raises:
        TypeError: A keyword is not an option; the message says what would be right.
        ConfigurationError: It is one of the session's, or refused.
    """
    if not refused and options.keys() <= CALL_OPTION_NAMES:
        return
    reject_unknown(options, caller, taken=CALL_OPTION_NAMES - {*refused}, beside=VERB_ARGUMENTS[verb])
    for name in options:
        if name in refused:
            raise ConfigurationError(f"{name} is of no use to {caller}().", name)
        if name not in CALL_OPTION_NAMES:
            raise ConfigurationError(
                f"{name} belongs to the session: give it to {_SESSIONS}, not to {caller}().", name
            )


def split_options(
    options: Mapping[str, Any], caller: str, verb: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the keywords of a one-call function into the options of a session and those of a call.

    Args:
        options: The keywords.
        caller: The function they were given to.
        verb: The one of `VERB_ARGUMENTS` whose other parameters it has.

    Raises:
        TypeError: A keyword is not an option; the message says what would be right.
    """
    reject_unknown(options, caller, beside=VERB_ARGUMENTS[verb])
    of_call = {name: value for name, value in options.items() if name in CALL_OPTION_NAMES}
    return {name: value for name, value in options.items() if name not in of_call}, of_call


class _Inherited:
    """The default that a signature shows for an option inherited from the session."""

    def __repr__(self) -> str:
        return "<the session's>"


_INHERITED = _Inherited()


def documents_options(
    *, session: bool, without: Collection[str] = (), args_of: Callable[..., Any] | None = None
) -> Callable[[F], F]:
    """List every option in the signature and the docstring of a function that takes ``**options``.

    Args:
        session: Whether to include the options of the session, or only those of a call.
        without: Options to leave out.
        args_of: A function with the same arguments, whose description of them is repeated.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        shown = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        names = [n for n in OPTION_FIELDS if n not in without and (session or n in CALL_OPTION_NAMES)]
        shown += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=OPTION_FIELDS[name].default if session else _INHERITED,
                annotation=OPTION_FIELDS[name].type,
            )
            for name in names
        ]
        function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        lines = [f"    {name}: {OPTION_FIELDS[name].metadata['doc']}" for name in names]
        sections = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        if args_of is not None and function.__doc__ is not None:  # python -OO drops docstrings
            raises = next(number for number, text in enumerate(sections) if text.startswith("Raises:"))
            sections.insert(raises, _args_section(args_of))
        sections.append("\n".join(["Options:", *lines]))
        function.__doc__ = "\n\n".join(sections)
        return function

    return decorate


def _args_section(function: Callable[..., Any]) -> str:
    sections = (function.__doc__ or "").split("\n\n")
    return next(text for text in sections if text.startswith("Args:"))
