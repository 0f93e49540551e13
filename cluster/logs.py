"""Facts to log lines. Rules of this file: one listener, one line a fact; nothing else in the tree logs."""

from __future__ import annotations

import logging
import sys
import time

from cluster.facts import Fact

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class FactLog:
    """Writes facts to the logger ``ganger.<role>``."""

    def __init__(self, role: str) -> None:
        self._log = logging.getLogger(f"ganger.{role}")

    def __call__(self, facts: list[Fact]) -> None:
        for fact in facts:
            level = _LEVELS[fact.level]
            if self._log.isEnabledFor(level):
                self._log.log(level, "%s", fact.text)


def log_to_stderr(level: str) -> None:
    """Send log lines of ours to standard error, in UTC; for the commands, never for a user's program."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger("ganger")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
