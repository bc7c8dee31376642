"""Of a table of choices there is one page at a time, before the first choice and after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.curating.test_choices import FLAT, IMAGES, ISSUES

from ftx.core.errors import InputError
from ftx.curating.choices import ChoiceTable, check_unclaimed, claimed


def test_a_choice_lets_no_second_page_in(tmp_path: Path) -> None:
    table = ChoiceTable(tmp_path / "t.csv", FLAT, ISSUES, IMAGES)
    with claimed(table.path):
        for number in range(3):
            with pytest.raises(InputError, match="another `ftx data look` process already uses"):
                check_unclaimed(table.path)
            with pytest.raises(InputError, match="another `ftx data look`"), claimed(table.path):
                pass
            table.choose(number, "drop")
    check_unclaimed(table.path)
    with claimed(table.path):
        pass


def test_two_tables_beside_each_other_have_a_page_each(tmp_path: Path) -> None:
    one, other = (ChoiceTable(tmp_path / name, FLAT, ISSUES, IMAGES).path for name in ("t.csv", "u.csv"))
    with claimed(one), claimed(other), pytest.raises(InputError):
        check_unclaimed(one)
    check_unclaimed(tmp_path / "none.csv")  # which is not written yet
