"""Components of links against those of scipy."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ftx.core.connected_components import least_of_component


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_each_name_has_the_least_of_those_it_is_joined_to(links: list[tuple[int, int]]) -> None:
    ones, others = [one for one, _ in links], [other for _, other in links]
    _, numbers = connected_components(coo_matrix((np.ones(len(links)), (ones, others)), shape=(31, 31)), directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for name, number in enumerate(numbers):
        members[number].append(name)
    assert least_of_component(links) == {name: min(members[numbers[name]]) for name in {*ones, *others}}


def test_names_may_be_texts() -> None:
    found = least_of_component([("b", "c"), ("d", "c"), ("x", "y")])
    assert found == {"b": "b", "c": "b", "d": "b", "x": "x", "y": "x"}
