"""Which connections are closed to make room for others."""

from __future__ import annotations

from parallel_requests.backends.open_connections import OpenConnections


class Connection:
    def __init__(self, used_at: float, *, is_idle: bool = True) -> None:
        self.used_at = used_at
        self.is_idle = is_idle
        self.sock: object | None = None

    def close_if_idle(self) -> bool:
        if self.is_idle:
            self.sock = None
        return self.is_idle


def test_the_connections_idle_for_longest_are_closed_and_those_in_use_are_not() -> None:
    open_connections = OpenConnections(3)
    connections = [Connection(3.0), Connection(1.0, is_idle=False), Connection(2.0), Connection(4.0)]
    for connection in connections:
        open_connections.make_room(connection)
        connection.sock = object()
    assert [connection.sock is not None for connection in connections] == [True, True, False, True]


def test_connections_that_their_servers_have_closed_take_no_room() -> None:
    open_connections = OpenConnections(2)
    first, closed, last = connections = [Connection(float(number)) for number in range(3)]
    for connection in connections:
        open_connections.make_room(connection)
        connection.sock = None if connection is closed else object()
    assert first.sock is not None
    assert last.sock is not None
