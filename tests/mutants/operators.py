"""What a mutant may change: cosmic-ray's operators that stand for realistic faults, and a few that it lacks.

An operator's positions and its change are cosmic-ray's interface (``cosmic_ray.operators.operator.Operator``); which
positions are worth a mutant is decided by ``allowed``, for all operators alike.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import cosmic_ray.operators.binary_operator_replacement as binary
import cosmic_ray.operators.comparison_operator_replacement as comparison
import cosmic_ray.operators.number_replacer as number_replacer
import cosmic_ray.operators.unary_operator_replacement as unary
from cosmic_ray.operators.boolean_replacer import (
    AddNot,
    ReplaceAndWithOr,
    ReplaceFalseWithTrue,
    ReplaceOrWithAnd,
    ReplaceTrueWithFalse,
)
from cosmic_ray.operators.break_continue import ReplaceBreakWithContinue, ReplaceContinueWithBreak
from cosmic_ray.operators.exception_replacer import ExceptionReplacer
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.remove_decorator import RemoveDecorator
from cosmic_ray.operators.zero_iteration_for_loop import ZeroIterationForLoop
from parso.python.tree import Keyword, Name, Number, PythonNode
from parso.python.tree import Operator as Sign

Node = Any  # of parso, which has no types
Span = tuple[tuple[int, int], tuple[int, int]]


def _span(node: Node) -> Span:
    return node.start_pos, node.end_pos


class RemoveStatement(Operator):
    """A call, an assignment to an attribute or an item, an augmented assignment, ``del`` or ``raise`` is left out."""

    def mutation_positions(self, node: Node) -> Iterator[Span]:
        if node.parent is None or node.parent.type != "simple_stmt":
            return
        removable = node.type in ("raise_stmt", "del_stmt") or node == "raise"
        if node.type in ("atom_expr", "power"):
            removable = node.children[-1].get_code().startswith("(")
        elif node.type == "expr_stmt":
            augmented = isinstance(node.children[1], Sign) and node.children[1].value != "="
            removable = augmented or node.children[0].type in ("atom_expr", "power")
        if removable:
            yield _span(node)

    def mutate(self, node: Node, index: int) -> Node:
        return Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("a.b(1)\n", "pass\n"), Example("x += 1\n", "pass\n"), Example("a[0] = b\n", "pass\n"))


class ReturnNone(Operator):
    """The value that a function returns is lost."""

    def mutation_positions(self, node: Node) -> Iterator[Span]:
        if node.type == "return_stmt" and node.children[1:] and node.children[1] != "None":
            yield _span(node)

    def mutate(self, node: Node, index: int) -> Node:
        node.children[1:] = [Keyword("None", node.children[1].start_pos, " ")]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("def f():\n    return a + 1\n", "def f():\n    return None\n"),)


class DropKeyword(Operator):
    """A keyword argument of a call is left out."""

    @staticmethod
    def _keywords(node: Node) -> list[Node]:
        inside = node.type == "arglist" and node.parent.type in ("trailer", "decorator")
        alone = node.type == "trailer" and node.children[0] == "(" and node.children[1].type == "argument"
        children = node.children if inside else node.children[1:2] if alone else []
        return [child for child in children if child.type == "argument" and child.children[1] == "="]

    def mutation_positions(self, node: Node) -> Iterator[Span]:
        yield from map(_span, self._keywords(node))

    def mutate(self, node: Node, index: int) -> Node:
        keyword = self._keywords(node)[index]
        at = node.children.index(keyword)
        if node.type == "arglist":  # with the comma after it, or before it where it is the last
            node.children[at : at + 2] = []
            if at == len(node.children) and at:
                del node.children[-1]
        else:
            del node.children[at]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(a, b=1, c=2)", "f(a, c=2)"), Example("f(a, b=1)", "f(a)"), Example("f(b=1)", "f()"))


class NumberReplacer(number_replacer.NumberReplacer):
    """One more or less; twice or half of what is so large that one more is no fault."""

    LARGE = 20

    def mutate(self, node: Node, index: int) -> Node:
        value = ast.literal_eval(node.value)
        if abs(value) <= self.LARGE:
            changed = value + number_replacer.OFFSETS[index]
        elif index == 0:
            changed = value * 2
        else:
            changed = value // 2 if isinstance(value, int) else value / 2
        return Number(repr(changed), node.start_pos, node.prefix)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x = 1", "x = 0", 1), Example("a[1]", "a[2]"), Example("x = 500", "x = 1000"))


class SwapArguments(Operator):
    """The first two arguments of a call, both names, change places."""

    ALIKE = frozenset({"isinstance", "issubclass", "cast", "min", "max", "getattr", "hasattr", "setattr", "gcd"})

    def mutation_positions(self, node: Node) -> Iterator[Span]:
        if node.type != "arglist" or node.parent.type != "trailer" or len(node.children) < 3:
            return
        first, _, second = node.children[:3]
        caller = node.parent.get_previous_leaf()
        plain = all(side.type == "name" or side.get_code().strip().isidentifier() for side in (first, second))
        if plain and caller.value not in self.ALIKE and first.get_code().strip() != second.get_code().strip():
            yield _span(node)

    def mutate(self, node: Node, index: int) -> Node:
        first, second = node.children[0], node.children[2]
        first.get_first_leaf().prefix, second.get_first_leaf().prefix = (
            second.get_first_leaf().prefix,
            first.get_first_leaf().prefix,
        )
        node.children[0], node.children[2] = second, first
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(a, b)", "f(b, a)"),)


class SwapIn(Operator):
    """``in`` becomes ``not in``, and the other way round."""

    def mutation_positions(self, node: Node) -> Iterator[Span]:
        if node.type == "comparison" and node.children[1].get_code().strip() in ("in", "not in"):
            yield _span(node.children[1])

    def mutate(self, node: Node, index: int) -> Node:
        swapped = "not in" if node.children[1].get_code().strip() == "in" else "in"
        node.children[1] = Keyword(swapped, node.children[1].start_pos, " ")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("a in b", "a not in b"), Example("a not in b", "a in b"))


class SwapAugmented(Operator):
    """``+=`` becomes ``-=`` and so on."""

    SIGNS = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "|=": "&=", "&=": "|="}  # noqa: RUF012

    def mutation_positions(self, node: Node) -> Iterator[Span]:
        if isinstance(node, Sign) and node.value in self.SIGNS:
            yield _span(node)

    def mutate(self, node: Node, index: int) -> Node:
        node.value = self.SIGNS[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x += 1\n", "x -= 1\n"),)


_PAIRS = """min max any all argmin argmax floor ceil ones zeros ones_like zeros_like startswith endswith union
intersection train eval width height rank alpha mean std low high accuracy_low accuracy_high in_features out_features
lora_A lora_B float32 float64 append extend lost gained sum mean first last find rfind""".split()
_BUILTINS = frozenset("min max any all".split())


class SwapName(Operator):
    """An attribute or a function called becomes its counterpart: ``min`` and ``max``, ``width`` and ``height``."""

    COUNTERPART = dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True)) | dict(zip(_PAIRS[1::2], _PAIRS[::2], strict=True))

    def mutation_positions(self, node: Node) -> Iterator[Span]:
        if not isinstance(node, Name) or node.value not in self.COUNTERPART:
            return
        before, after = node.get_previous_leaf(), node.get_next_leaf()
        called, attribute = after is not None and after == "(", before is not None and before == "."
        if (called and node.value in _BUILTINS) or (attribute and (called or node.value not in ("train", "eval"))):
            yield _span(node)

    def mutate(self, node: Node, index: int) -> Node:
        node.value = self.COUNTERPART[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("min(a)", "max(a)"), Example("a.width", "a.height"))


def _named(module: object, prefix: str, suffixes: str) -> dict[str, type[Operator]]:
    return {suffix: getattr(module, prefix + suffix) for suffix in suffixes.split()}


OWN = (RemoveStatement, ReturnNone, DropKeyword, NumberReplacer, SwapArguments, SwapIn, SwapAugmented, SwapName)
# By family: no family may fill the sample.
FAMILIES: dict[str, dict[str, type[Operator]]] = {
    "comparison": _named(
        comparison,
        "ReplaceComparisonOperator_",
        "Eq_NotEq NotEq_Eq Lt_LtE LtE_Lt Gt_GtE GtE_Gt Lt_Gt Gt_Lt LtE_GtE GtE_LtE Is_IsNot IsNot_Is",
    )
    | {"SwapIn": SwapIn},
    "arithmetic": _named(
        binary, "ReplaceBinaryOperator_", "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitOr_BitAnd"
    )
    | _named(unary, "ReplaceUnaryOperator_", "Delete_USub Delete_Invert")
    | {"SwapAugmented": SwapAugmented},
    "number": {"NumberReplacer": NumberReplacer},
    "logic": {each.__name__: each for each in (AddNot, ReplaceAndWithOr, ReplaceOrWithAnd)}
    | _named(unary, "ReplaceUnaryOperator_", "Delete_Not"),
    "switch": {each.__name__: each for each in (ReplaceTrueWithFalse, ReplaceFalseWithTrue)},
    "flow": {
        each.__name__: each
        for each in (ReplaceBreakWithContinue, ReplaceContinueWithBreak, ExceptionReplacer, ZeroIterationForLoop)
    }
    | {"RemoveDecorator": RemoveDecorator},
    "statement": {"RemoveStatement": RemoveStatement},
    "return": {"ReturnNone": ReturnNone},
    "keyword": {"DropKeyword": DropKeyword},
    "exchange": {"SwapArguments": SwapArguments, "SwapName": SwapName},
}
OPERATORS = {name: operator for family in FAMILIES.values() for name, operator in family.items()}
FAMILY_OF = {name: family for family, operators in FAMILIES.items() for name in operators}

# Arguments that are words for a reader, or that change nothing which a test could see on one machine.
_WORDS = frozenset(
    "help metavar rich_help_panel show_default title description found fix where hint message style short_help "
    "epilog no_args_is_help indent encoding strict stacklevel frozen slots kw_only repr".split()
)
_SPEAKERS = frozenset("note print_note warn info debug print_facts print_table cast TypeVar Literal".split())
_KEPT_DECORATORS = frozenset(
    "dataclass property staticmethod classmethod override overload abstractmethod runtime_checkable cached_property "
    "contextmanager command callback".split()
)
_UNPACKING = frozenset("parameters param lambdef argument arglist atom dictorsetmaker testlist_comp star_expr".split())


def allowed(leaf: Node, operator: str) -> bool:
    """Whether the change at this leaf is one that tests ought to notice: not words, types or our own invariants."""
    if operator == "RemoveDecorator":
        name = leaf.parent.get_code(include_prefix=False).strip(" @\n").split("(")[0]
        return not _KEPT_DECORATORS.intersection(name.split("."))
    if operator == "RemoveStatement" and _speaks(leaf.parent):
        return False
    if leaf.parent.type in _UNPACKING and isinstance(leaf, Sign):
        return False  # the star of a signature or of a call, which cosmic-ray takes for a product
    if operator in ("Add_Sub", "Mul_Div") and any(_is_text(side) for side in leaf.parent.children):
        return False  # fails whenever it runs
    called = False  # between the leaf and an annotation: what Annotated holds is code
    node = leaf
    while node.parent is not None:
        child, node = node, node.parent
        if node.type in ("fstring", "assert_stmt", "import_from", "import_name"):
            return False
        if node.type == "raise_stmt" and not (operator == "RemoveStatement" and child is leaf):
            return False
        if node.type == "argument" and getattr(node.children[0], "value", "") in _WORDS:
            return False
        if node.type == "trailer" and child is not node.children[0]:
            caller = node.get_previous_leaf().value
            if node.children[0] == "(":
                if caller in _SPEAKERS or caller.endswith(("Error", "Fault", "Failed")):
                    return False
                called = True
            elif caller in ("Literal", "NDArray"):
                return False
        if _annotates(node, child) and not called:
            return False
        if node.type == "if_stmt" and node.children[1].get_code().strip() == "TYPE_CHECKING":
            return False
        if node.type == "expr_stmt" and node.children[0].get_code().strip() == "__all__":
            return False
    return True


def _is_text(node: Node) -> bool:
    return node.type in ("string", "fstring", "strings") or (node.type == "atom" and node.children[0] == "[")


def _annotates(node: Node, child: Node) -> bool:
    if node.type == "annassign":
        return child is node.children[1]
    if node.type == "tfpdef":
        return child is node.children[-1]
    return node.type == "funcdef" and child is node.annotation


def _speaks(node: Node) -> bool:
    """Whether a statement does nothing but tell the user something."""
    names = [part for part in node.children if isinstance(part, PythonNode) and part.type == "trailer"]
    return any(part.children[0] == "." and part.children[1].value in ("note", "print_note", "warn") for part in names)
