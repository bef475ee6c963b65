"""In which order the addresses of a name are tried."""

from __future__ import annotations

import socket
from typing import NoReturn

import pytest

from parallel_requests.backends.racing import ConnectRace
from parallel_requests.backends.wire import Wire


def test_the_families_of_addresses_take_turns() -> None:
    tried: list[tuple[int, int]] = []

    def refuse(family: int, kind: int, protocol: int) -> NoReturn:
        tried.append((family, protocol))
        raise OSError(f"no socket for {protocol}")

    old, new = socket.AF_INET, socket.AF_INET6
    found = [(family, socket.SOCK_STREAM, n, "", ()) for n, family in enumerate([new, new, new, old, old])]
    with pytest.raises(OSError, match="no socket for 0"):
        ConnectRace(found, refuse, Wire(), None).run()
    assert tried == [(new, 0), (old, 3), (new, 1), (old, 4), (new, 2)]
