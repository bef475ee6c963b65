"""What is particular to niquests: how threads share the pools of urllib3-future."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("niquests")

from parallel_requests.backends.niquests_pools import OriginPool
from parallel_requests.session import ParallelSession
from tests.server.h2_faults import Pause, allow_one_stream, good_answer, h2_context, speak_h2

if TYPE_CHECKING:
    from collections.abc import Callable

    from h2.connection import H2Connection

    from tests.server.faults import FaultServer
    from tests.server.tls import Certificates

pytestmark = pytest.mark.niquests


def test_a_pool_may_shrink_while_a_connection_is_being_opened(
    fault_server: Callable[..., FaultServer], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()

    def answer(protocol: H2Connection, stream: int, path: str) -> None:
        if path == "/late":
            is_asked.set()
            raise Pause(may_answer, lambda: good_answer(protocol, stream))
        good_answer(protocol, stream)

    open_connection = OriginPool._new_conn

    def open_after_shrinking(pool: Any, **options: Any) -> Any:
        monkeypatch.undo()
        pool.pool.maxsize = 1  # as if another thread had just connected, and may have many streams
        return open_connection(pool, **options)

    server = fault_server([speak_h2(answer, begin=allow_one_stream)], tls=h2_context(certificates.good))
    with (
        ParallelSession(backend="niquests", max_retries=0, verify_ssl=str(certificates.ca_file)) as session,
        ThreadPoolExecutor(1) as caller,
    ):
        late = caller.submit(lambda: session.get(server.url("/late"), return_type="content"))
        assert is_asked.wait(5)
        monkeypatch.setattr(OriginPool, "_new_conn", open_after_shrinking)
        assert session.get(server.url("/"), return_type="content") == b"ok"
        may_answer.set()
        assert late.result() == b"ok"
