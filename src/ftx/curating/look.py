"""``ftx data look``: everything that is probably wrong with a data set, found before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftx.backbones.build import resolve
from ftx.core.addresses import Address, Location, typed
from ftx.core.command_report import CommandReport
from ftx.core.errors import DataError, InputError
from ftx.core.progress import SILENT, Progress
from ftx.curating.choices import ChoiceTable, check_unclaimed, images_of, read_choices
from ftx.curating.issues import Issue, Spelling, counted
from ftx.curating.probes import frozen_features, out_of_fold, stratified_folds
from ftx.curating.wrong_labels import Judgement, LabelJudgement, judge
from ftx.data.check import CheckedDataset, open_and_check
from ftx.data.dataset import Dataset
from ftx.data.near_duplicates import NearDuplicateGroups, near_duplicate_groups
from ftx.recipe.schema import Recipe
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds

TABLE = Path("data-look.csv")


class LookReport(CommandReport):
    """The problems that ``ftx data look`` found."""

    verb: str = "data look"
    path: str
    """The folder, file or URL of the data set."""
    task: TaskName
    """The task that you named, or else the narrowest one that the labels fit."""
    images: int
    """The number of images that can be read."""
    model: str
    """The model whose features the probes use."""
    image_size: int | str
    """The image size in pixels: the side of a square, or ``HEIGHTxWIDTH``."""
    folds: int
    """The number of parts of the data. A probe that is trained on the other parts judges each part."""
    strength: float
    """The penalty on the weights of the probes."""
    metrics: dict[str, float]
    """The metrics of the probes on images that they are not trained on, by name, from 0 to 1."""
    labels: list[LabelJudgement]
    """How well a probe recognizes each label."""
    counts: dict[str, int]
    """The number of issues of each kind."""
    notes: list[str]
    """What the images cannot show, and what happened to earlier choices."""
    problems: list[str]
    """Why ``ftx train`` rejects the data; ``ok`` is false if there are any."""
    table: str
    """The path of the CSV file with all issues and your choices."""
    issues: list[Issue]
    """All issues: labels first, then similar images, then images that cannot be read."""


@dataclass(frozen=True)
class Look:
    """What was found, the table of choices, and the data set whose images are shown."""

    report: LookReport
    table: ChoiceTable
    dataset: Dataset


def look(recipe: Recipe, task: TaskName | None = None, *, out: Path = TABLE, progress: Progress = SILENT) -> Look:
    """Find what is wrong with the recipe's data, by probes on its model's features, and write the table.

    Without a ``task`` the narrowest that the labels suit.
    Raises: DataError, as ``ftx data check``, and if no image can be read; ModelError or EnvironmentFault, as building
    the model does; InputError if ``out`` lies in the data, is a file of someone else or a table of other data, or is
    shown by another program.
    """
    resolve(recipe.model.name)  # a name mistyped must not cost the reading of all images
    check_unclaimed(out)
    path = typed(recipe.data.path)
    data = recipe.data
    checked = open_and_check(
        path,
        task,
        form=data.format,
        follow_links=data.follow_links,
        val_fraction=data.val_fraction,
        progress=progress,
    )
    _check_outside_data(out, path, checked.dataset)
    if not checked.dataset.entries:
        raise DataError(
            "no image can be read",
            where=path,
            found=checked.opened.unreadable[0].reason,
            fix="repair the images, or copy them again",
        )
    spelling = Spelling.of(checked.report.task, checked.dataset.labels, checked.listing.declared)
    images = images_of(checked.dataset)
    before = read_choices(out, spelling, images)  # first, as a file that is not ours must not cost the features either
    found = _found(recipe, checked, progress)
    table = ChoiceTable(out, spelling, _issues(checked, found, spelling), images, before)
    return Look(_report(recipe, checked, found, table, spelling), table, checked.dataset)


def _check_outside_data(out: Path, path: Location, dataset: Dataset) -> None:
    """Raise InputError for a table in the user's data: in its folder, or next to images that a table names."""
    root = dataset.root
    if isinstance(path, Address) or isinstance(root, Address):
        return
    folder = out.absolute().parent.resolve()
    image_folders = {(root / entry.path).parent.resolve() for entry in dataset.entries}
    inside = path.is_dir() and folder.is_relative_to(path.resolve())
    if inside or folder in image_folders:
        raise InputError(
            "--out must lie outside the data", where=out, fix="name a file elsewhere: --out ../data-look.csv"
        )


@dataclass(frozen=True)
class _Found:
    """What the probes found, and how they did."""

    groups: NearDuplicateGroups
    judgement: Judgement
    metrics: dict[str, float]
    folds: int
    strength: float
    image_size: int | str


def _found(recipe: Recipe, checked: CheckedDataset, progress: Progress) -> _Found:
    dataset, entries = checked.dataset, checked.dataset.entries
    task = TASKS[checked.report.task](dataset.labels, Thresholds())
    alike = near_duplicate_groups(entries, checked.opened.fingerprints, progress)
    given = [entry.labels for entry in entries]
    targets_NC = task.targets(given)
    features = frozen_features(recipe, dataset.root, entries, task, progress)
    fold_N = stratified_folds(given, alike.subjects)
    probed = out_of_fold(features.values_NW, targets_NC, dataset.labels, fold_N, progress=progress)
    judgement = judge(probed.logits_NC, targets_NC, task, given, alike.subjects)
    metrics = {name: round(value, 4) for name, value in task.metrics(probed.logits_NC, targets_NC).items()}
    return _Found(alike, judgement, metrics, int(fold_N.max()) + 1, probed.strength, features.image_size)


def _issues(checked: CheckedDataset, found: _Found, spelling: Spelling) -> list[Issue]:
    """Wrong labels, the most probable first, then images that look alike, then images that cannot be read."""
    entries = checked.dataset.entries
    issues: list[Issue] = [
        Issue(
            path=entries[one.row].path,
            issue="label-unproved" if one.unproved else "label",
            given=spelling.all(entries[one.row].labels),
            suggested=spelling.all(one.suggested),
            score=round(one.score, 4),
            reason=one.unproved,
        )
        for one in sorted(found.judgement.suspicions, key=lambda one: bool(one.unproved))
    ]
    issues += [
        Issue(
            path=entries[pair.one].path,
            issue="contradiction",
            given=spelling.all(entries[pair.one].labels),
            suggested=spelling.all(entries[pair.other].labels),
            score=round(pair.correlation, 4),
            other=entries[pair.other].path,
        )
        for pair in sorted(found.groups.unlike, key=lambda pair: -pair.correlation)
    ]
    given = {entry.path: spelling.all(entry.labels) for entry in entries}
    issues += [
        Issue(
            path=one.held_out,
            issue="near-duplicate",
            given=given[one.held_out],
            suggested=one.train,
            score=one.correlation,
            other=one.train,
        )
        for one in checked.report.near_duplicates
    ]
    listed = {file.path: file.labels for file in checked.listing.files}
    issues += [
        Issue(path=one.path, issue="unreadable", given=";".join(listed.get(one.path, ())), reason=one.reason)
        for one in checked.dataset.unreadable
    ]
    return issues


def _report(
    recipe: Recipe, checked: CheckedDataset, found: _Found, table: ChoiceTable, spelling: Spelling
) -> LookReport:
    notes = [*found.groups.notes]
    if table.unmatched:
        notes.append(
            f"earlier choices that match no issue now: {table.unmatched}; they are kept at the end of the table"
        )
    judged = [one.model_copy(update={"name": spelling.one(one.name)}) for one in found.judgement.labels]
    if not found.judgement.possible:
        notes.append("no label can be judged, so none is reported as wrong: see the reason at each label")
    elif unproved := [one.name for one in judged if one.unproved]:
        notes.append(f"labels that cannot be judged: {_named(unproved)}; their issues are marked unproved")
    return LookReport(
        ok=checked.report.ok,
        path=checked.report.path,
        task=checked.report.task,
        images=len(checked.dataset.entries),
        model=recipe.model.name,
        image_size=found.image_size,
        folds=found.folds,
        strength=found.strength,
        metrics=found.metrics,
        labels=judged,
        counts=counted(table.issues),
        notes=notes,
        problems=checked.report.problems,
        table=str(table.path),
        issues=[*table.issues],
    )


def _named(names: Sequence[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
