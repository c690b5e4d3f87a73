"""Marks of single cases; light, as processes that are spawned import the module of their test."""

import pytest
from _pytest.mark import ParameterSet


def slow(*values: object) -> ParameterSet:
    """A case of a parametrized test that only the slow suite has."""
    return pytest.param(*values, marks=pytest.mark.slow)
