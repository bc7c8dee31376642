from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ftx.data.preprocess import Preprocess
from ftx.runtimes.model_api import model_info
from ftx.tasks.labels import Labels, spaceless_names
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.thresholds import Thresholds

PREPROCESS = Preprocess(
    height=224, width=256, resize=256, interpolation="bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
NAMES = ["red panda", "red_panda", "größe", "tab\tand  two"]


def info(*, embedded: bool) -> dict[str, str]:
    return model_info(TASKS["multiclass"](Labels.multiclass(NAMES), Thresholds()), PREPROCESS, embedded=embedded)


def test_labels_survive_being_separated_by_spaces() -> None:
    found = info(embedded=True)
    assert found["labels"].split() == ["red_panda_2", "red_panda", "größe", "tab_and_two"]
    assert found["label_ids"].split() == ["0", "1", "2", "3"]
    originals = json.loads(found["label_info"])
    assert originals == {"label_names": NAMES, "label_ids": ["0", "1", "2", "3"], "label_groups": [NAMES]}


def test_values_are_written_as_model_api_reads_them() -> None:
    found = info(embedded=True)
    assert all(isinstance(value, str) for value in found.values())
    # "true" would be read as False.
    assert not {"true", "false"} & set(found.values())
    assert (found["embedded_processing"], found["multilabel"], found["hierarchical"]) == ("True", "False", "False")
    assert (found["orig_height"], found["orig_width"]) == ("224", "256")


def test_a_graph_that_normalises_does_not_ask_others_to() -> None:
    assert not {"mean_values", "scale_values", "resize_type"} & set(info(embedded=True))
    outside = info(embedded=False)
    assert outside["mean_values"] == "123.675 116.28 103.53"
    assert outside["scale_values"] == "58.395 57.12 57.375"
    assert (outside["embedded_processing"], outside["interpolation_mode"]) == ("False", "CUBIC")


@given(st.lists(st.text(alphabet="ab_2 \t\u3000", min_size=1), unique=True, min_size=1, max_size=12))
def test_spaceless_names_are_whole_and_different(names: list[str]) -> None:
    found = spaceless_names(names)
    assert " ".join(found).split() == list(found)
    assert len(set(found)) == len(names)
    for name, spaceless in zip(names, found, strict=True):
        if name.split() == [name]:
            assert spaceless == name


def test_each_label_is_in_one_group_alone_or_with_those_that_it_excludes() -> None:
    """As OpenVINO Training Extensions reads them: a label that holds by itself is a group of one."""
    tree = Labels(
        ("plant", "animal", "cat", "dog", "wet"),
        groups=(("plant", "animal"), ("cat", "dog")),
        singles=("wet",),
        parents={"cat": "animal", "dog": "animal"},
    )
    several = Labels(("tall", "red", "wet"), singles=("tall", "red", "wet"))
    for name, labels, groups in (
        ("multilabel", several, [["tall"], ["red"], ["wet"]]),
        ("hierarchical", tree, [["plant", "animal"], ["cat", "dog"], ["wet"]]),
    ):
        for embedded in (True, False):
            stated = json.loads(
                model_info(TASKS[name](labels, Thresholds()), PREPROCESS, embedded=embedded)["label_info"]
            )
            assert stated["label_groups"] == groups
            assert stated["label_names"] == list(labels.names)
            assert sorted(name for group in groups for name in group) == sorted(labels.names)
