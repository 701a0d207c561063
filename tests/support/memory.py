"""Tests that count what Python allocates."""

from __future__ import annotations

import sys

import pytest

counts_allocations = pytest.mark.skipif("coverage" in sys.modules, reason="what coverage allocates would count, too")
"""For bounds of a few kilobytes."""
