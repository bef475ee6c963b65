"""Which certificates are trusted."""

from __future__ import annotations

import os
import ssl


def ssl_context(verify: bool | str) -> ssl.SSLContext:
    """Return a client context.

    Args:
        verify: True trusts the system's CAs, a path those of that file or folder, False anybody.
    """
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if verify is True:
        return ssl.create_default_context()
    if os.path.isdir(verify):
        return ssl.create_default_context(capath=verify)
    return ssl.create_default_context(cafile=verify)
