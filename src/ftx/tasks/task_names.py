"""The names of tasks and losses in recipes, runs and cards, and the facts of each task that the rest of ftx reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TaskName = Literal["multiclass", "multilabel", "hierarchical"]
# Of independent labels.
LossName = Literal["asymmetric", "bce"]


@dataclass(frozen=True)
class TaskFacts:
    """One task.

    ``labels_of_image`` is how many an image has, for help. ``one_label``: each image has exactly one label;
    ``no_label``: an image may have none. ``correct_means`` stands in a report between "The model" and "93 of 100
    images". In a model card ``predicts`` follows "This model", ``limits`` is what the task cannot do, and ``reading``
    explains the scores. ``otx_task`` and ``otx_class`` are OTX's words. ``sample`` is the archive of the sample data
    and the folder that it becomes, ``sample_table`` the table of images in it and the name of that.
    """

    labels_of_image: str
    one_label: bool
    no_label: bool
    correct_means: str
    predicts: str
    limits: str
    otx_task: str
    otx_class: str
    sample: tuple[str, str]
    sample_table: tuple[str, str] | None = None
    reading: str = ""


_GARMENTS = ("fashion-mnist.zip", "sample-data")
TASK_FACTS: Mapping[TaskName, TaskFacts] = {
    "multiclass": TaskFacts(
        labels_of_image="one label for each image",
        one_label=True,
        no_label=False,
        correct_means="predicts the correct class for",
        predicts="predicts one label for each image",
        limits="Each image gets one of the labels, also an image that shows none of them.",
        otx_task="MULTI_CLASS_CLS",
        otx_class="Multiclass",
        sample=_GARMENTS,
    ),
    "multilabel": TaskFacts(
        labels_of_image="several labels",
        one_label=False,
        no_label=True,
        correct_means="predicts every label correctly for",
        predicts="predicts any number of labels for each image, or none",
        limits="A label is predicted if its score is above its threshold, so an image may get no label.",
        otx_task="MULTI_LABEL_CLS",
        otx_class="Multilabel",
        sample=("fashion-sheets.zip", "sample-sheets"),
    ),
    "hierarchical": TaskFacts(
        labels_of_image="a label tree",
        one_label=False,
        no_label=False,
        correct_means="predicts the whole path correctly for",
        predicts="predicts the labels of each image in a label tree, from the root down",
        limits="If a label near the root is wrong, the labels below it are wrong too.",
        otx_task="H_LABEL_CLS",
        otx_class="HLabel",
        sample=_GARMENTS,
        sample_table=("fashion-tree.csv", "sample-tree.csv"),
        reading="The score of a label below another one is relative to its parent. "
        "`ftx predict` gives whole paths of the label tree.",
    ),
}
# Of each --task.
TASK_HELP = "; ".join(f"{name}: {facts.labels_of_image}" for name, facts in TASK_FACTS.items()) + "."
