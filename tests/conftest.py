"""One source of chance for all tests: a run repeats the last one, unless it is asked to explore."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("GANGER_TESTS_EXPLORE") else "steady")
