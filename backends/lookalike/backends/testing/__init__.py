"""Conformance suites for those who write a backend, and fakes; they ship in the wheel."""

import sys

if "pytest" in sys.modules:  # the asserts of the suites then explain themselves
    import pytest

    pytest.register_assert_rewrite(
        *(f"{__name__}.{suite}" for suite in ("embed", "engine", "index", "_index_suite"))
    )
