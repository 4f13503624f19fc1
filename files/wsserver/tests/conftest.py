# SPDX-License-Identifier: MIT
from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The same examples in every run; `HYPOTHESIS_PROFILE=search` looks for new ones, for as long as one likes.
_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", derandomize=True, max_examples=250, stateful_step_count=50, **_COMMON)
settings.register_profile("search", max_examples=5000, stateful_step_count=80, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
