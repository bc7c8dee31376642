"""Regular expressions from strangers: what ``re`` says, in a time that someone waits."""

from __future__ import annotations

import json
import re
import time
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strangers.documents import strange
from torch import nn

from ftx.adapters.peft_config import read_config
from ftx.backbones.layer_roles import named_sites
from ftx.core import regular_expressions as room
from ftx.core.errors import AdapterError
from ftx.core.regular_expressions import ExpressionError, Expressions

NAMES = ["", "blocks", "blocks.0.attn.qkv", "blocks.10.mlp.fc1", "layers.0.blocks.1.attn.proj", "head", "a{e}b", "é.x"]
# As peft's users write them, and what only re's or only regex' syntax makes of something.
WRITTEN = [
    r"blocks\.\d+\.attn\.qkv",
    r".*\.(qkv|proj|fc[12])",
    r"^(?!.*head).*(?:qkv|fc1)$",
    r"blocks\.(?:[0-9]|1[01])\.(?P<part>attn|mlp)\..*",
    r"(?i)BLOCKS.*",
    r"(?:.*?\.)?blocks\.(?P<block>\d+)\..*",
    r"(.*)\.(.*)\.(.*)",
    r"[a-z.]+\d*[a-z.]*",
    r"blocks\.0\.attn\.qkv|blocks\.10\.mlp\.fc1",
    r"head|blocks",
    r"blocks.0.attn.qkv|head",
    r"head|",
    r"\d|head",
    r"a{e}b",
    r"(?:a){e}b",
    r"(?:x){e}",
    r"(?:x){e<=9}",
    r"\Ablocks\Z",
    r"b{1,2}locks{,3}",
    r"(?s:.)*+",
    r"\w+\.x",
    r"(?x) blocks  # a comment",
]
ENDLESS = [r".*(a|aa)+[xyz]", r".*(?:a|aa)+[xyz]", "(.*)*(.*)*x", r"(a+)+$"]
LONG = "blocks.0." + 60 * "a"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the second that a user waits."""
    monkeypatch.setattr(room, "BUDGET_S", 0.2)


@pytest.mark.parametrize("expression", WRITTEN)
def test_what_re_says(expression: str) -> None:
    for name in NAMES:
        expected = re.fullmatch(expression, name)
        found = Expressions().fullmatch(expression, name)
        assert found == (None if expected is None else expected.groupdict())


@strange
@given(
    st.text(st.sampled_from(r"ab.\d*+?()[]{}|^$0,12e<=:!-"), max_size=12),
    st.text(st.sampled_from("ab.012{}e"), max_size=8),
)
def test_what_re_says_of_any_expression(expression: str, name: str) -> None:
    try:
        found = Expressions().fullmatch(expression, name)
    except ExpressionError:
        return
    expected = re.fullmatch(expression, name)
    assert found == (None if expected is None else expected.groupdict())


@pytest.mark.parametrize("expression", [*ENDLESS, "a" * 70_000, "(" * 2000, "(?P<", "[", r"\p{L}", "(?V1)x", "*"])
def test_an_expression_ends_or_is_refused(expression: str) -> None:
    expressions, started = Expressions(), time.thread_time()
    refusal = ""
    try:
        assert expressions.fullmatch(expression, LONG) is None
    except ExpressionError as error:
        refusal = str(error)
    assert len(refusal) < 300
    assert time.thread_time() - started < 1


def test_the_budget_is_one_for_all_names() -> None:
    expressions, started = Expressions(), time.thread_time()

    def asked() -> None:
        for number in range(10_000_000):
            expressions.fullmatch(rf".*(?:{number % 50})?(ab?|a)+c?", LONG)

    with pytest.raises(ExpressionError, match="too long"):
        asked()
    assert time.thread_time() - started < 1


def test_each_expression_has_what_those_before_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which each takes a quarter of the second, however little it is."""
    monkeypatch.setattr(room, "BUDGET_S", 1.0)
    with monkeypatch.context() as patch:
        ticks = count(0, 0.25)
        patch.setattr(room.time, "thread_time", lambda: next(ticks))
        expressions = Expressions()
        for number in range(3):
            assert expressions.fullmatch(f"a+{number}", f"aa{number}") == {}
        with pytest.raises(ExpressionError, match="with the others it takes too long"):
            expressions.fullmatch("a+3", "aa3")
    monkeypatch.setattr(room, "BUDGET_S", 30.0)
    with monkeypatch.context() as patch:
        ticks = count(0, 29.9)
        patch.setattr(room.time, "thread_time", lambda: next(ticks))
        expressions = Expressions()
        expressions.fullmatch("a+", "aa")
    started = time.thread_time()
    with pytest.raises(ExpressionError, match="it takes too long"):  # a tenth of a second is left, not thirty
        expressions.fullmatch(ENDLESS[0], LONG)
    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    "keys",
    [
        {"target_modules": ENDLESS[0]},
        {"target_modules": ["qkv"], "exclude_modules": ENDLESS[0]},
        {"target_modules": ["qkv"], "layers_to_transform": [0], "layers_pattern": ENDLESS[0]},
        {"target_modules": ["qkv"], "rank_pattern": {ENDLESS[0]: 2}},
        {"target_modules": ["qkv"], "alpha_pattern": {ENDLESS[0]: 2.0}},
        {"target_modules": ["qkv"], "modules_to_save": [ENDLESS[0]]},
        {"target_modules": ["qkv"], "rank_pattern": {f"{ENDLESS[0]}{number}": 2 for number in range(5000)}},
    ],
)
def test_no_expression_of_an_adapter_hangs(keys: dict[str, object], tmp_path: Path) -> None:
    document = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "init_lora_weights": True, **keys}
    (tmp_path / "adapter_config.json").write_text(json.dumps(document))
    started = time.thread_time()

    def asked() -> None:
        config = read_config(tmp_path)
        for number in range(300):
            config.targets_layer(f"{LONG}.{number}.qkv")
            config.scaling(f"{LONG}.{number}.qkv", config.rank(f"{LONG}.{number}.qkv"))

    with pytest.raises(AdapterError, match="expression") as refused:
        asked()
    assert time.thread_time() - started < 2
    assert len(str(refused.value)) < 1000


def test_layers_that_match_too_slowly_are_a_wrong_input() -> None:
    module = nn.Module()
    module.add_module("a" * 60, nn.Linear(2, 2))
    started = time.thread_time()
    with pytest.raises(AdapterError, match="too long"):
        named_sites(module, ENDLESS[0])
    assert time.thread_time() - started < 2
