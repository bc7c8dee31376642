"""Packages that some work needs at its end: asked for before it begins."""

from __future__ import annotations

from importlib.util import find_spec


def require(package: str) -> None:
    """Find out whether a package is installed, without importing it.

    Raises: ModuleNotFoundError, of which the command line tells the extra.
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)
