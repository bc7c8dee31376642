"""``ftx.Classifier``: the whole way in one object, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftx.core.addresses import if_address
from ftx.core.errors import InputError, RecipeError
from ftx.core.progress import NOTES_ONLY, Progress
from ftx.evaluating import ParityReport, validate
from ftx.evaluating.evaluate import EvalReport, evaluate
from ftx.evaluating.predict import OneImage, Prediction, predict
from ftx.exporting import ExportReport, export
from ftx.merging.merge_and_prove import MergeReport, merge
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import PeftMethod
from ftx.runs.artifacts import DENSE, Format
from ftx.runs.run import Run
from ftx.runtimes import load_artifact
from ftx.runtimes.choose_artifact import furthest
from ftx.runtimes.open_model import uncertainty_of
from ftx.tasks.task_names import TaskName
from ftx.training import train


class Classifier:
    """A model to fit to images, merge, export and run, with one run folder.

        classifier = ftx.Classifier("dinov2-small", task="multiclass", peft="dora", epochs=5)
        classifier.fit("photos")
        classifier.export(precisions=["int8"])
        classifier.predict("new/")

    ``settings`` are keys of the recipe by their last part: ``epochs=5, lr=1e-3, rank=16, image_size=112``.
    """

    def __init__(
        self,
        model: str = "dinov2-small",
        *,
        task: TaskName = "multiclass",
        peft: PeftMethod | None = None,
        progress: Progress = NOTES_ONLY,
        **settings: object,
    ) -> None:
        """Check every setting.

        Raises: RecipeError with all that is wrong.
        """
        if "name" in settings:
            raise RecipeError(
                "name must not be given: the model is the first argument",
                found=f"{model!r} and name={settings['name']!r}",
                fix=f"write Classifier({settings['name']!r})",
            )
        self.recipe = Recipe.named({"name": model, "task": task, "peft": peft, **settings})
        self.progress = progress
        self._run: Run | None = None
        self._data: Path | None = None  # where its images are, if the run does not say: no run names an address

    @classmethod
    def open(
        cls, run: Run | Path | str, *, data: Path | str | None = None, progress: Progress = NOTES_ONLY
    ) -> Classifier:
        """The fitted classifier of a run folder; its images are in ``data`` if the run does not say.

        Raises: RunError if it is none.
        """
        opened = run if isinstance(run, Run) else Run.open(run)
        made = cls(progress=progress)
        made.recipe, made._run, made._data = opened.recipe(), opened, None if data is None else Path(data)
        return made

    @property
    def run(self) -> Run:
        """The run folder.

        Raises: InputError before ``fit``.
        """
        if self._run is None:
            raise InputError("this classifier is not fitted yet", fix='call fit("folder of images") first')
        return self._run

    def fit(self, data: Path | str, *, out: Path | str | None = None) -> Classifier:
        """Train on a folder, a table or annotation files, into a new run folder; returns itself.

        Raises: as ``ftx.train``.
        """
        report = train(
            self.recipe.with_data(Path(data)),
            None if out is None else Path(out),
            progress=self.progress,
            on_epoch=lambda end: self.progress.note(str(end)),
        )
        self._run, self._data = Run.open(report.run), if_address(Path(data))
        return self

    def merge(self) -> MergeReport:
        """Fold the trained model into one dense model; raises as ``ftx.merge``."""
        return merge(self.run, data=self._data, progress=self.progress)

    def export(
        self,
        *,
        formats: Sequence[Format] = ("openvino",),
        precisions: Sequence[str] | str = ("fp32",),
    ) -> ExportReport:
        """Write the dense model in other formats, merged first if need be; raises as ``ftx.export``."""
        if not self.run.has(DENSE):
            self.merge()
        chosen = [precisions] if isinstance(precisions, str) else precisions
        return export(self.run, formats=formats, precisions=chosen, data=self._data, progress=self.progress)

    def validate(self) -> ParityReport:
        """Compare every artifact with the trained model; raises as ``ftx.validate``."""
        return validate(self.run, data=self._data, progress=self.progress)

    def evaluate(self, artifact: str | None = None) -> EvalReport:
        """Metrics on held-out images; raises as ``ftx.evaluate``."""
        return evaluate(self.run, artifact, data=self._data, progress=self.progress)

    def predict(self, images: OneImage | Sequence[OneImage], *, scores: bool = False) -> list[Prediction]:
        """Label images as ``ftx.predict`` does, by the furthest artifact there is: the best IR, dense, or trained.

        Raises: as ``ftx.predict``.
        """
        predictor = load_artifact(self.run, furthest(self.run))
        predictor.uncertainty = uncertainty_of(predictor)
        return list(predict(images, predictor, scores=scores, progress=self.progress))

    def __repr__(self) -> str:
        fitted = "not fitted" if self._run is None else str(self._run.path)
        return f"<Classifier {self.recipe.model.name}, {self.recipe.task}, {self.recipe.method}: {fitted}>"
