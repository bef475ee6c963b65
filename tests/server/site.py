"""All routes put together: the site that both the HTTP/1.1 and the HTTP/2 server serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.server import httpbin, scenarios
from tests.server.routing import Answer, Call, Router, control_router
from tests.server.virtual_hosts import VIRTUAL_HOSTS

if TYPE_CHECKING:
    from tests.server.counters import Counters


class Site:
    """Answers calls by host and path; the control routes answer on every host."""

    def __init__(self, counters: Counters) -> None:
        self._main = control_router(counters)
        self._main.include(httpbin.routes)
        self._main.include(scenarios.routes)

    def answer(self, call: Call) -> Answer:
        """Answer a call as the host it names would."""
        return self._router_for(call).answer(call)

    def _router_for(self, call: Call) -> Router:
        host = VIRTUAL_HOSTS.get(call.host.partition(":")[0])
        return host if host is not None and call.route in host else self._main
