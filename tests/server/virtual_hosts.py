"""The public hosts the reference documents name, played on loopback by their Host header."""

from __future__ import annotations

import zlib

from tests.server.routing import Answer, Call, Router, json_answer, text_answer

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


@example.route("orders")
def orders(call: Call, customer: str) -> Answer:
    """Two orders a page; a customer has as many pages as its number says.

    Each names the next one, in its body and in a ``Link`` header.
    """
    page, pages = int(call.arg("page", "1")), int(customer)
    following = f"{call.origin}{call.path}?page={page + 1}" if page < pages else None
    links = [f'<{call.origin}{call.path}?page={pages}>; rel="last"']
    links += [f'<{following}>; rel="next"'] if following else []
    body = {"orders": [{"id": 2 * page - 1}, {"id": 2 * page}], "next": following}
    return json_answer(body, headers=[("Link", ", ".join(links))])


@example.route("prices")
def prices(call: Call, number: str) -> Answer:
    """A price that never changes."""
    etag = f'"{number}"'
    if call.headers.get("if-none-match") == etag:
        return Answer(status=304, headers=[("ETag", etag)])
    return json_answer({"price": int(number)}, headers=[("ETag", etag)])


@example.route("robots.txt")
def robots(call: Call) -> Answer:
    return text_answer("User-agent: *\nDisallow: /wiki/13\n")


@example.route("wiki")
def wiki(call: Call, number: str) -> Answer:
    """A page that links to four others of 20, itself perhaps included, and to places that are not pages."""
    linked = {int(number) * factor % 20 for factor in (2, 3, 5)} | {(int(number) + 1) % 20}
    links = "".join(f'<a href="/wiki/{other}#top">{other}</a>' for other in sorted(linked))
    return text_answer(f'<title>{number}</title>{links}<a href="mailto:a@b">b</a>', content_type="text/html")


@example.route("token", methods="POST")
def token(call: Call) -> Answer:
    return json_answer({"access_token": "a-token", "expires_in": 3600})


@example.route("accounts")
def accounts(call: Call, number: str) -> Answer:
    if call.headers.get("authorization") != "Bearer a-token":
        return json_answer({"error": "no token"}, 401)
    return json_answer({"account": int(number)})


VIRTUAL_HOSTS = {"api.github.com": github, "api.example.com": example}
