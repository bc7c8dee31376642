"""``ftx report``: the page of a whole run, of half a run, and of one that somebody altered."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browsing import needs_chromium, visit
from tests.evaluating.written_runs import written_run
from tests.zygote import Zygote

from ftx.core.errors import DataError, InputError, RunError
from ftx.core.files import sha256_file
from ftx.core.progress import SILENT
from ftx.evaluating.evaluate import evaluate, held_out_logits
from ftx.reporting import page_values as pages
from ftx.reporting.confusion import confusions
from ftx.reporting.held_out import class_scores_of, held_out
from ftx.reporting.report import report
from ftx.runs.artifacts import DENSE, IR_FP32, IR_INT8, TRAINED
from ftx.runs.compute_precision import F32
from ftx.runs.kept_logits import keep_logits, read_logits
from ftx.runs.machine import InstructionSet
from ftx.runs.parity_json import PARITY_FILE, ReleaseVerdict, Verdict, read_parity
from ftx.runs.run import Run

SECTIONS = "verdict data curves confusion classes calibration errors parity latency provenance".split()
EVIL = "<img src=x onerror=\"document.title='taken'\">"


def copy(run: Path, where: Path) -> Run:
    return Run.open(shutil.copytree(run, where, symlinks=True))


@pytest.fixture(scope="module")
def page(validated_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = copy(validated_run, tmp_path_factory.mktemp("report") / "run")
    found = report(run)
    assert found.path == str(run.path / "reports" / "report.html")
    assert found.size_bytes == Path(found.path).stat().st_size < 5_000_000
    assert re.match(
        r"Ready to use: [\w-]+ is verified\. (At most \d\.\d points of accuracy lost|It computes)", found.verdict
    )
    assert "The model predicts the correct class for" in found.verdict
    assert found.faults == []
    assert found.lacks == ["a benchmark of latency and throughput"]
    return Path(found.path)


def test_it_holds_each_section_and_the_figures_of_eval(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    for section in SECTIONS:
        assert html.count(f'<section id="{section}"') == 1
    run = Run.open(page.parents[1])
    evaluation = evaluate(run)
    right = round(evaluation.accuracy * evaluation.images)
    assert f"({right} of {evaluation.images}, by the {evaluation.artifact} model; 95 % interval" in html
    assert evaluation.confusion is not None
    (counts,) = re.findall(r"<caption><span>Number of images</span></caption>.*?<tbody>(.*?)</tbody>", html, re.DOTALL)
    cells = [int(text.replace("·", "0")) for text in re.findall(r"transparent\)\">([0-9·]+)</td>", counts)]
    assert cells == list(np.ravel(evaluation.confusion))
    assert run.manifest.digest(IR_FP32) in html
    assert run.manifest.base_digest in html


def test_the_run_knows_its_report(page: Path) -> None:
    run = Run.open(page.parents[1])
    assert {"reports/report.html", "reports/near_duplicates.json"} <= set(run.manifest.files)
    again = report(run)
    assert again.faults == []
    assert again.size_bytes == page.stat().st_size  # the same run gives the same page


@pytest.mark.parametrize("artifact", [TRAINED, IR_FP32, IR_INT8])
def test_answers_that_validate_kept_are_those_that_eval_gets(validated_run: Path, artifact: object) -> None:
    run = Run.open(validated_run)
    assert artifact in (TRAINED, IR_FP32, IR_INT8)
    kept = read_logits(run, artifact)
    assert kept is not None
    asked = held_out_logits(run, artifact)
    assert kept.compute == asked.compute
    # Twice the same model on the same images; threads may share the work otherwise.
    np.testing.assert_allclose(kept.logits_NC, asked.logits_NC, rtol=0, atol=1e-4 * np.abs(asked.logits_NC).max())


def test_answers_of_another_model_than_the_run_holds_are_not_taken(validated_run: Path, tmp_path: Path) -> None:
    run = copy(validated_run, tmp_path / "run")
    assert read_logits(run, IR_FP32) is not None
    assert read_logits(run, DENSE) is None  # validate takes it through another view
    other = run.manifest.files | {"openvino/fp32/model.bin": "0" * 64}
    manifest = run.manifest.model_copy(update={"files": other})
    (run.path / "run.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    assert read_logits(Run.open(run.path), IR_FP32) is None
    (run.path / "reports/answers/trained.safetensors").write_bytes(b"cut")
    assert read_logits(run, TRAINED) is None


def test_half_a_run_says_what_it_lacks(whole_run: Path, tmp_path: Path) -> None:
    run = copy(whole_run, tmp_path / "run")
    manifest = run.manifest
    kept = {
        name: digest
        for name, digest in manifest.files.items()
        if not name.startswith(("dense", "onnx", "openvino", "reports/train"))
    }
    for folder in ("dense", "onnx", "openvino"):
        shutil.rmtree(run.path / folder)
    (run.path / "reports" / "train.jsonl").unlink()
    half = manifest.model_copy(update={"files": kept, "lineage": {}})
    (run.path / "run.json").write_text(half.model_dump_json(indent=2), encoding="utf-8")
    found = report(run.path, out=tmp_path / "page.html")
    assert found.verdict.startswith("Not ready: ")
    assert found.lacks[:2] == ["the merged model", "a model for OpenVINO"]
    assert found.lacks[-1].startswith("the training curves")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"ftx merge {run.path}" in html
    assert "This run has no training curves." in html
    assert all(f'<section id="{section}"' in html for section in SECTIONS)


@pytest.mark.parametrize("name", ["openvino/fp32/model.bin", "data.jsonl", "recipe.yaml", "reports/parity.json"])
def test_an_altered_run_is_not_to_be_used(validated_run: Path, tmp_path: Path, name: str) -> None:
    run = copy(validated_run, tmp_path / "run")
    with (run.path / name).open("ab") as file:
        file.write(b"\n")
    found = report(run, out=tmp_path / "page.html")
    assert found.verdict.startswith("Do not use yet: this run was changed after it was made. ")
    assert not found.ok
    assert f"{name} changed since ftx wrote it" in found.faults
    assert f"{name} changed since ftx wrote it" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.representative
def test_near_duplicates_found_by_an_earlier_comparison_are_looked_for_again(
    validated_run: Path, tmp_path: Path
) -> None:
    run = copy(validated_run, tmp_path / "run")
    known = {"images": run.manifest.files["data.jsonl"], "pairs": [{"held_out": "a", "train": "b", "correlation": 1}]}
    for version, told in ((None, False), (2, True)):
        numbered = known | ({} if version is None else {"schema_version": version})
        (run.path / "reports" / "near_duplicates.json").write_text(json.dumps(numbered), encoding="utf-8")
        report(run, out=tmp_path / "page.html")
        html = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert ("1 held-out images are nearly the same as an image used in training" in html) == told


def test_a_model_that_is_gone_is_told(validated_run: Path, tmp_path: Path) -> None:
    run = copy(validated_run, tmp_path / "run")
    for name in ("fp32", "int8"):
        shutil.rmtree(run.path / "openvino" / name)
        found = report(run, out=tmp_path / "page.html")
        assert found.verdict.startswith("Do not use yet: this run was changed")
        assert any(fault.startswith(f"openvino/{name}/") for fault in found.faults)


@pytest.mark.slow
def test_a_run_that_is_not_to_be_used_ends_the_verb_with_1(
    validated_run: Path, tmp_path: Path, fresh_ftx: Zygote
) -> None:
    run = copy(validated_run, tmp_path / "run").path
    assert fresh_ftx("report", run, "--out", tmp_path / "page.html").returncode == 0
    with (run / "openvino/fp32/model.bin").open("ab") as file:
        file.write(b"\n")
    for words in ((run,), (validated_run, run), (run, "--json")):
        said = fresh_ftx("report", *words, "--out", tmp_path / f"page-{len(words)}.html")
        assert said.returncode == 1
        assert "Do not use yet" in said.stdout + said.stderr


def test_without_its_images_the_page_says_so(validated_run: Path, tmp_path: Path) -> None:
    run = copy(validated_run, tmp_path / "run")
    gone = run.manifest.model_copy(update={"data_root": str(tmp_path / "gone")})
    (run.path / "run.json").write_text(gone.model_dump_json(indent=2), encoding="utf-8")
    found = report(run.path, out=tmp_path / "page.html")
    assert found.ok
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<li>Images are not shown: " in html
    (note,) = found.notes
    assert note.startswith("Images are not shown: ")
    assert "--data" in note
    assert "data:image/jpeg" not in html
    assert re.search(r"of 240, by the openvino/\w+ model; 95 % interval", html)  # what was kept is still known


def test_an_unfinished_training_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "12.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="must be a finished run") as raised:
        report(tmp_path)
    assert "ftx train --resume" in str(raised.value)


def test_a_file_of_another_kind_stays(validated_run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<h1>mine</h1>", encoding="utf-8")
    with pytest.raises(InputError, match="or a report of ftx"):
        report(validated_run, out=mine)
    assert mine.read_text(encoding="utf-8") == "<h1>mine</h1>"
    with pytest.raises(InputError, match="must be a file, not a folder"):
        report(validated_run, out=tmp_path)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Its fp32 is remembered to have answered two of the eight held-out images wrongly, and surest of all."""
    run = Run.open(written_run("multiclass-dora", tmp_path / "here").path)
    monkeypatch.chdir(tmp_path / "here")
    names = run.manifest.labels.names
    truth = np.array([names.index(entry.labels[0]) for entry in run.report_entries()])
    called = np.where(np.arange(8) < 3, 0, truth)  # called the first label, whichever they are
    assert (called != truth).sum() == 2
    keep_logits(run, IR_FP32, F32, np.eye(3, dtype=np.float32)[called] * np.arange(9, 1, -1, dtype=np.float32)[:, None])
    return run


SETS_OF_RELEASE: dict[InstructionSet, Verdict] = {"amx": "unproved", "avx2": "proved", "avx512": "failed"}
KINDS = {"proved": "ok", "failed": "bad", "unproved": "warn"}


def table(html: str, caption: str) -> list[list[str]]:
    """The cells of a table's body."""
    (body,) = re.findall(rf"{re.escape(caption)}.*?<tbody>(.*?)</tbody>", html, re.DOTALL)
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in body.split("</tr>") if "<t" in row]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in rows]


def page_of(run: Run, **given: Any) -> str:
    report(run, out=Path("page.html"), artifact="openvino/fp32", **given)
    return Path("page.html").read_text(encoding="utf-8")


def test_the_tables_have_the_figures_of_each_label(small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CASES", 1)
    html = page_of(small)
    predictions = held_out(small, IR_FP32, None, SILENT)
    expected = [
        [
            one.name,
            *(f"{100 * share:.1f}" for share in (one.precision, one.recall, one.f1)),
            f"{100 * (one.average_precision or 0):.1f}",
            f"{100 * one.false_positive_rate:.1f}",
            str(one.support),
        ]
        for one in class_scores_of(predictions)
    ]
    found = table(html, "Each label on images not seen in training, in percent")
    assert found == expected
    # No two columns say the same of the label that was called too often.
    assert len(set(found[0])) == len(found[0])
    carried = Counter((entry.labels[0], entry.split) for entry in small.entries())
    assert table(html, "Number of images with each label") == [
        [name, *(str(carried[name, side]) for side in ("train", "val", "test"))] for name in small.manifest.labels.names
    ]
    mistakes = table(html, "The most frequent errors")
    assert sorted(mistakes) == sorted(
        [one.truth, one.prediction, str(one.images), f"{100 * one.fraction:.1f}"]
        for matrix in confusions(predictions)
        for one in matrix.mistakes
    )
    assert "6 of 8, by the openvino/fp32 model" in html
    assert "8 test images, predicted by the openvino/fp32 model in fp32 on" in html


def test_a_picture_has_the_verdict_of_each_version_of_openvino(small: Run) -> None:
    caption = "Verdict for each version of OpenVINO (emulated for older instruction sets than that of this CPU)"
    assert "Verdict for each version of OpenVINO" not in page_of(small)
    path = small.path / PARITY_FILE
    parity = read_parity(small.path)
    assert parity is not None
    parity.releases = [
        ReleaseVerdict(
            artifact="openvino/fp32", isa=isa, emulated=False, verdict=verdict, summary="", openvino="2025.4.1"
        )
        for isa, verdict in SETS_OF_RELEASE.items()
    ]
    path.write_text(parity.model_dump_json(), encoding="utf-8")
    html = page_of(small)
    # Whatever the report has of this version, the other has its row, in the order of the sets.
    rows = [row for row in table(html, f"<span>{caption}</span>") if row[1] == "2025.4.1"]
    assert rows == [["openvino/fp32", "2025.4.1", "proved", "failed", "unproved"]]
    row = html.partition("<td>2025.4.1</td>")[2].partition("</tr>")[0]
    assert [row.count(f'badge {kind}">{verdict}</span></td>') for verdict, kind in KINDS.items()] == [1, 1, 1]


def test_all_near_duplicates_are_counted_and_the_first_shown(small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CASES", 1)
    pairs = [{"held_out": f"h{one}", "train": f"t{one}", "correlation": 0.5 + one / 100} for one in range(43)]
    known = {"schema_version": 2, "images": small.manifest.files["data.jsonl"], "pairs": pairs}
    (small.path / "reports" / "near_duplicates.json").write_text(json.dumps(known), encoding="utf-8")
    html = page_of(small)
    assert "43 held-out images are nearly the same as an image used in training" in html
    assert "The table has the first 40." in html
    rows = table(html, "Held-out images, and the image used in training that is nearly the same")
    assert rows == [[pair["held_out"], pair["train"], f"{pair['correlation']:.3f}"] for pair in pairs[:40]]


def test_images_are_shown_from_where_data_says(small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CASES", 1)
    Path("images").rename(tmp_path / "images")
    found = report(small, out=Path("page.html"), artifact="openvino/fp32", data=tmp_path)
    assert found.notes == []
    # Nobody has proved it on eight images: something is open, and nothing is against it.
    assert (found.ok, found.verdict.partition(":")[0]) == (True, "Not proved")
    html = Path("page.html").read_text(encoding="utf-8")
    assert html.count("data:image/jpeg") == 18 + 2 * 1 + 3  # samples, an image of each kind, and their maps
    with pytest.raises(DataError):
        report(small, out=Path("page.html"), artifact="openvino/fp32", data=tmp_path / "nowhere")


@needs_chromium
@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        pytest.param("light", 1280, marks=pytest.mark.representative),
        pytest.param("dark", 1280, marks=pytest.mark.slow),
        pytest.param("light", 390, marks=pytest.mark.slow),
    ],
)
def test_in_a_browser(page: Path, scheme: str, width: int) -> None:
    with visit(page.as_uri(), scheme=scheme, width=width) as seen:
        assert not seen.errors
        assert [one for one in seen.requests if not one.startswith(("data:", "file:"))] == []
        assert not seen.violations()
        assert seen.sideways() == 0
        heads = seen.page.locator("#classes thead button")
        rows = seen.page.locator("#classes tbody th")
        heads.nth(0).press("Enter")
        heads.nth(0).press("Enter")
        assert rows.first.inner_text() == "red"  # the last of the alphabet
        # Opening, pictures included; the best of three, as the machine does other work meanwhile.
        opened_ms: list[float] = []
        for _ in range(3):
            seen.page.reload()
            opened_ms.append(seen.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        assert min(opened_ms) < 1000


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_in_the_strongest_colours_of_a_matrix_can_be_read(scheme: str, small: Run) -> None:
    """A label that is always predicted wrongly: its cell has 100 % in the colour of errors."""
    names = small.manifest.labels.names
    called = (np.array([names.index(entry.labels[0]) for entry in small.report_entries()]) + 1) % 3
    keep_logits(small, IR_FP32, F32, np.eye(3, dtype=np.float32)[called])
    assert ">100</td>" in page_of(small)
    with visit(Path("page.html").absolute().as_uri(), scheme=scheme, width=390) as seen:
        assert not seen.violations()


@needs_chromium
@pytest.mark.slow
def test_html_in_names_stays_text(validated_run: Path, tmp_path: Path) -> None:
    run = copy(validated_run, tmp_path / "<b>run<b>")
    for name in ("run.json", "data.jsonl"):
        path = run.path / name
        text = path.read_text(encoding="utf-8").replace('"red"', json.dumps(EVIL))
        path.write_text(text, encoding="utf-8")
    manifest = run.manifest
    rewritten = manifest.files | {"data.jsonl": sha256_file(run.path / "data.jsonl")}
    (run.path / "run.json").write_text(
        manifest.model_copy(update={"files": rewritten}).model_dump_json(indent=2), encoding="utf-8"
    )
    found = report(run.path, out=tmp_path / "page.html", artifact="trained")
    with visit((tmp_path / "page.html").as_uri()) as seen:
        assert seen.page.title() != "taken"
        assert seen.page.title().startswith("<b>run<b>")
        assert seen.page.locator("main img[onerror]").count() == 0
        assert EVIL in seen.page.locator("#data").inner_text()
        assert not seen.errors
    assert found.faults == []
