"""The connection pools of urllib3, and of urllib3-future in its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3

from parallel_requests.backends.base import TransportSettings
from parallel_requests.backends.pools import Pools
from parallel_requests.backends.wire import Wire


@pytest.mark.niquests
def test_a_pool_that_a_thread_is_about_to_use_is_not_closed_to_make_room_for_others() -> None:
    pools = Pools(urllib3, Wire(), TransportSettings())
    with ThreadPoolExecutor(1) as other_thread:
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
            pool = pools.pool_for(f"http://{host}/", True, None, None)
        for number in range(1000):
            other_thread.submit(pools.pool_for, f"http://127.0.0.3:{number}/", True, None, None).result()
        assert pool.pool is not None
    pools.close()
