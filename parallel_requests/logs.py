"""The library's logger, silent by default and apart from the handlers of other loggers; and its warnings."""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from typing import TextIO

logger = logging.getLogger("parallel_requests")
logger.addHandler(logging.NullHandler())


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at the time, until the program gives the root logger a handler."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it is written elsewhere or stderr is closed."""
        is_closed = getattr(sys.stderr, "closed", sys.stderr is None)
        if not (logging.getLogger().handlers or is_closed):
            self.stream = sys.stderr
            super().emit(record)


def set_level(*, verbose: bool, debug: bool) -> None:
    """Set the level of the library's logger, and add a handler if neither it nor the root logger has one.

    Args:
        verbose: Log at INFO and above.
        debug: Log at DEBUG and above.
    """
    if not (verbose or debug):
        return
    level = logging.DEBUG if debug else logging.INFO
    if logger.level == logging.NOTSET or logger.level > level:
        logger.setLevel(level)
    own = [handler for handler in logger.handlers if not isinstance(handler, logging.NullHandler)]
    if not own and not logging.getLogger().handlers:
        handler = StderrHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


def warn(message: str) -> None:
    """Warn with the location of the caller's line that led here."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
