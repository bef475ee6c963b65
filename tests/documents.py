"""The Python blocks of Markdown documents, as programs that can be run."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.server.proxy import Proxy
from tests.server.tls import PLAYED_HOSTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.control import Server

_FENCE = re.compile(r"^```(\w*)$")
_HEADING = re.compile(r"^#+ (.+)$")
_PYTHON = ("python", "py")


@dataclass(frozen=True)
class Block:
    """One Python block of a document.

    Attributes:
        document: The file's name.
        path: The file.
        line: The line of its opening fence, from 1.
        heading: The heading it stands under.
        source: The code.
        output: The ``text`` block that follows at once, which is what the code prints; None
            if there is none.
    """

    document: str
    path: Path
    line: int
    heading: str
    source: str
    output: str | None = None

    @property
    def id(self) -> str:
        """The id of a test of this block."""
        return f"{self.document}:{self.line}"

    @property
    def needs_niquests(self) -> bool:
        """Whether it needs niquests."""
        return 'backend="niquests"' in self.source or "niquests." in self.source

    def run(self, namespace: dict[str, Any]) -> str:
        """Run the code in a namespace and return what it printed.

        ``await``, ``async with`` and ``async for`` may stand at the top level: the block is then
        the body of a coroutine.
        """
        # Blank lines in front let tracebacks point into the document.
        code = compile(
            "\n" * self.line + self.source,
            str(self.path),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if code.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(code, namespace))
            else:
                exec(code, namespace)
        return printed.getvalue()


def python_blocks(path: Path) -> list[Block]:
    """Return the Python blocks of a document, in order."""
    found: list[Block] = []
    heading, end_of_code = "", -2
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if title := _HEADING.match(line):
            heading = title[1]
        fence = _FENCE.match(line)
        if fence is None:
            continue
        body = list(takewhile(lambda numbered: numbered[1] != "```", lines))
        text = "".join(f"{inner}\n" for _, inner in body)
        if fence[1] in _PYTHON:
            found.append(Block(path.name, path, number, heading, text))
            end_of_code = number + len(body) + 1
        elif fence[1] == "text" and number <= end_of_code + 2:
            found[-1] = replace(found[-1], output=text)
    return found


@contextlib.contextmanager
def played_hosts(tls_server: Server) -> Iterator[Proxy]:
    """Let a loopback server play the public hosts that documents name, certificates included.

    The environment sends every https URL to a proxy that takes those hosts for the server; the
    documents' code runs as it stands.
    """
    assert tls_server.ca_file is not None
    ca_file = str(tls_server.ca_file)
    with Proxy(resolve=dict.fromkeys(PLAYED_HOSTS, tls_server.address)) as proxy:
        variables = {"HTTPS_PROXY": proxy.url, "REQUESTS_CA_BUNDLE": ca_file, "SSL_CERT_FILE": ca_file}
        with patch.dict(os.environ, {**variables, "NO_PROXY": "127.0.0.1"}):
            yield proxy
