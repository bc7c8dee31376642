"""Untrusted regular expressions matched with layers' names: with the meaning of Python's ``re``, within a time.

``re`` cannot be stopped, and ``(.*)*(.*)*x`` takes it longer than anyone waits. The package ``regex`` matches the same
and looks at the clock; it has more syntax, so an error of ``re`` is an error here too, and a brace that ``re`` reads as
a character does not start its fuzzy matching.

Lists of names, as ``re.escape`` writes them, need no matching: so ftx names the layers of an adapter,
which a device without the package reads too.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftx.core.errors import shown
from ftx.core.untrusted_input import MOST_EXPRESSION

if TYPE_CHECKING:
    import regex

# Time of this thread for all names of a model together; the expressions that ftx writes take some hundredths.
BUDGET_S = 1.0
_LITERAL_BRACE = re.compile(r"(\\.)|\{(?!\d*,?\d*\})", re.DOTALL)
_LISTED_NAMES = re.compile(r"(?:\w|\\[.-])+(?:\|(?:\w|\\[.-])+)*", re.ASCII)


class ExpressionError(ValueError):
    """An expression that is invalid, or that takes too long."""


class Expressions:
    """Matches expressions that belong together, one adapter's or one flag's, within one budget of time."""

    def __init__(self) -> None:
        self._left_s = BUDGET_S
        self._compiled: dict[str, regex.Pattern[str]] = {}
        self._listed: dict[str, frozenset[str]] = {}

    def listed_names(self, expression: str) -> frozenset[str]:
        """The names that an expression lists, escaped and between bars; none if it has anything else."""
        if expression not in self._listed:
            lists = len(expression) <= MOST_EXPRESSION and _LISTED_NAMES.fullmatch(expression)
            self._listed[expression] = frozenset(expression.replace("\\", "").split("|") if lists else ())
        return self._listed[expression]

    def fullmatch(self, expression: str, name: str) -> Mapping[str, str] | None:
        """The named groups if the whole name matches, else None.

        Raises: ExpressionError if it is invalid, or the budget is spent.
        """
        if names := self.listed_names(expression):
            return {} if name in names else None
        started = time.thread_time()
        pattern = self._compiled.get(expression) or self._compile(expression)
        try:
            found = pattern.fullmatch(name, timeout=max(self._left_s, 1e-6))
        except TimeoutError:
            raise ExpressionError(f"{shown(expression)}: it takes too long to match") from None
        self._left_s -= time.thread_time() - started
        if self._left_s <= 0:
            raise ExpressionError(f"{shown(expression)}: with the others it takes too long to match")
        return None if found is None else found.groupdict()

    def _compile(self, expression: str) -> regex.Pattern[str]:
        import regex

        if len(expression) > MOST_EXPRESSION:
            raise ExpressionError(f"{shown(expression)}: {len(expression):,} characters, at most {MOST_EXPRESSION:,}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on syntax that may mean something else in a later Python
                re.compile(expression)
                pattern = regex.compile(_LITERAL_BRACE.sub(lambda one: one[1] or r"\{", expression))
        except (re.error, regex.error, OverflowError, RecursionError, ValueError) as error:
            raise ExpressionError(f"{shown(expression)}: {error}") from error
        self._compiled[expression] = pattern
        return pattern
