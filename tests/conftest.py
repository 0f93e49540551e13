"""One source of chance and one kind of Ctrl-C for all tests. Rules of this file: what every test stands on.

A run repeats the last one, unless it is asked to explore. A shell that starts it in the background has interrupts
ignored, and programs under test would inherit that: so they are heard again here.
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("GANGER_TESTS_EXPLORE") else "steady")
