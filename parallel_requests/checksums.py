"""The checksums of downloads: one for all files, one per URL in order, or by URL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from parallel_requests.exceptions import ConfigurationError, ValidationError
from parallel_requests.redaction import redact
from parallel_requests.urls import check_url, split_user_info
from parallel_requests.values import shown

if TYPE_CHECKING:
    from pathlib import Path

    from parallel_requests.models import Request

Checksums: TypeAlias = str | bool | Sequence[str | None] | Mapping[str, str] | None
"""As a caller gives them: in hex; True only computes those of all files."""
Checksum: TypeAlias = str | bool | None
"""What one file must have, in lower case; True only computes it."""

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class ExpectedChecksums:
    """What the files of one batch have to match.

    Attributes:
        in_order: One per URL, if they were given as a list.
        unmatched: The URLs of those given by URL that have not come up yet.
    """

    def __init__(self, given: Checksums) -> None:
        """Check what a caller gave.

        Raises:
            ConfigurationError: It is not a SHA-256, or not by URL.
        """
        self.in_order: list[Checksum] | None = None
        self._by_url: dict[str, Checksum] | None = None
        self._of_all: Checksum = None
        if isinstance(given, Mapping):
            self._by_url = {_as_sent(url): _checked(value) for url, value in given.items()}
        elif isinstance(given, list | tuple):
            self.in_order = [_checked(value) for value in given]
        elif given is not False:
            self._of_all = _checked(given)
        self.unmatched = set(self._by_url or ())

    def __bool__(self) -> bool:
        """Whether there are any to compare or to compute."""
        return bool(self.in_order or self._by_url or self._of_all)

    def of(self, request: Request) -> Checksum:
        """Return the one for what a request fetches."""
        if self.in_order is not None:
            return self.in_order[request.index]
        return self._of_all if self._by_url is None else self._by_url.get(request.url)

    def unmatched_text(self) -> str:
        """Return what to tell the caller about those that match no URL."""
        first, *others = sorted(self.unmatched)
        more = f" (and {len(others)} more)" if others else ""
        return f"sha256 has a checksum for {redact(first)}{more}, which is not a URL of the batch."


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_sent(url: object) -> str:
    """Return a URL as its Request has it, so that any spelling of it finds its checksum."""
    try:
        address, _ = check_url(url)
    except ValidationError as error:
        raise ConfigurationError(f"sha256 has a key that is not a URL: {error}", "sha256") from None
    return split_user_info(address)[0]


def _checked(value: object) -> Checksum:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value.lower()
    if value is None or value is True:
        return value
    raise ConfigurationError(
        f"sha256 must be 64 hex digits, True, a list with one per URL or a dict by URL, not {shown(value)}.",
        "sha256",
    )
