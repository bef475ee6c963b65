"""Items and options as the Requests that they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parallel_requests.environment import Environment
from parallel_requests.options import Settings
from parallel_requests.planning import Planner
from parallel_requests.request_builder import RequestBuilder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from parallel_requests.models import Request

URL = "http://api.test/a"
SECRET = "hunter2"
NO_ENVIRONMENT = Environment(variables={})


def plan(
    urls: Any,
    keys: Any = None,
    *,
    environment: Environment = NO_ENVIRONMENT,
    session_cookies: Mapping[str, str] | None = None,
    **options: Any,
) -> list[Request]:
    planner = Planner(RequestBuilder(Settings(**options), environment, cookies=session_cookies))
    return list(planner.plan(urls, keys))


def plan_one(url: Any = URL, **options: Any) -> Request:
    [request] = plan([url], **options)
    if request.problem is not None:
        raise request.problem
    return request


def header(request: Request, name: str) -> str | None:
    found = [value for own, value in request.headers.items() if own.lower() == name.lower()]
    assert len(found) <= 1, f"{name} is there twice"
    return found[0] if found else None
