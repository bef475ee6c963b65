"""Tests without sockets and waiting: the pure parts, on a clock that the tests set."""
