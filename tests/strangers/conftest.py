"""How many examples are drawn: hypothesis' own hundred, or with ``--hypothesis-profile=fuzz`` many more."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fuzz", max_examples=2000, print_blob=True)
