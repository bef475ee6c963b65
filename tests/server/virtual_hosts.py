"""The public hosts the reference documents name, played on loopback by their Host header."""

from __future__ import annotations

import zlib

from tests.server.routing import Answer, Call, Router, json_answer

github = Router()
example = Router()


@github.route("repos")
def repository(call: Call, owner: str, name: str) -> Answer:
    full_name = f"{owner}/{name}"
    return json_answer(
        {
            "id": zlib.crc32(full_name.encode()),
            "name": name,
            "full_name": full_name,
            "owner": {"login": owner},
            "stargazers_count": zlib.crc32(name.encode()) % 100_000,
            "language": "Python",
        }
    )


@example.route("page")
def page(call: Call, number: str) -> Answer:
    return json_answer({"page": int(number)})


@example.route("endpoint")
def endpoint(call: Call) -> Answer:
    return json_answer({"ok": True})


@example.route("unstable")
def unstable(call: Call) -> Answer:
    """Every other answer is a 503, the first one included."""
    if call.counters.occurrence("unstable") % 2:
        return json_answer({"error": "unstable"}, 503)
    return json_answer({"ok": True})


VIRTUAL_HOSTS = {"api.github.com": github, "api.example.com": example}
