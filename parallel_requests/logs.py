"""The library's one logger: silent unless asked, and never anybody else's handlers."""

from __future__ import annotations

import logging

logger = logging.getLogger("parallel_requests")
logger.addHandler(logging.NullHandler())


def set_level(*, verbose: bool, debug: bool) -> None:
    """Make our logger talk.

    Args:
        verbose: Log at INFO and above.
        debug: Log at DEBUG and above.

    A handler is added to our logger only where no handler is configured that would show anything.
    """
    if not (verbose or debug):
        return
    level = logging.DEBUG if debug else logging.INFO
    if logger.level == logging.NOTSET or logger.level > level:
        logger.setLevel(level)
    own = [handler for handler in logger.handlers if not isinstance(handler, logging.NullHandler)]
    if not own and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
