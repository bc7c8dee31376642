"""``ftx report``: the page of a whole run, of half a run, and of one that somebody altered."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.browsing import needs_chromium, visit
from tests.zygote import Zygote

from ftx.core.errors import InputError, RunError
from ftx.core.files import sha256_file
from ftx.evaluating.evaluate import ask, evaluate
from ftx.reporting.report import report
from ftx.runs.artifacts import DENSE, IR_FP32, IR_INT8, TRAINED
from ftx.runs.kept_answers import read_answers
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
    assert found.verdict.startswith("Ready: The model names the right class for")
    assert found.faults == []
    assert found.lacks == ["a bench of latency and throughput"]
    return Path(found.path)


def test_it_holds_each_section_and_the_figures_of_eval(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    for section in SECTIONS:
        assert html.count(f'<section id="{section}"') == 1
    run = Run.open(page.parents[1])
    evaluation = evaluate(run)
    right = round(evaluation.accuracy * evaluation.images)
    assert f"({right} of {evaluation.images}, by {evaluation.artifact}; 95 % interval" in html
    assert evaluation.confusion is not None
    (counts,) = re.findall(r"<caption><span>Images</span></caption>.*?<tbody>(.*?)</tbody>", html, re.DOTALL)
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
    kept = read_answers(run, artifact)
    assert kept is not None
    asked = ask(run, artifact)
    assert kept.compute == asked.compute
    # Twice the same model on the same images; threads may share the work otherwise.
    np.testing.assert_allclose(kept.logits_NC, asked.logits_NC, rtol=0, atol=1e-4 * np.abs(asked.logits_NC).max())


def test_answers_of_another_model_than_the_run_holds_are_not_taken(validated_run: Path, tmp_path: Path) -> None:
    run = copy(validated_run, tmp_path / "run")
    assert read_answers(run, IR_FP32) is not None
    assert read_answers(run, DENSE) is None  # validate takes it through another view
    other = run.manifest.files | {"openvino/fp32/model.bin": "0" * 64}
    manifest = run.manifest.model_copy(update={"files": other})
    (run.path / "run.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    assert read_answers(Run.open(run.path), IR_FP32) is None
    (run.path / "reports/answers/trained.safetensors").write_bytes(b"cut")
    assert read_answers(run, TRAINED) is None


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
    assert found.lacks[-1].startswith("the curves of its training")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"ftx merge {run.path}" in html
    assert "The run does not hold what its epochs measured." in html
    assert all(f'<section id="{section}"' in html for section in SECTIONS)


@pytest.mark.parametrize("name", ["openvino/fp32/model.bin", "data.jsonl", "recipe.yaml", "reports/parity.json"])
def test_an_altered_run_is_not_to_be_used(validated_run: Path, tmp_path: Path, name: str) -> None:
    run = copy(validated_run, tmp_path / "run")
    with (run.path / name).open("ab") as file:
        file.write(b"\n")
    found = report(run, out=tmp_path / "page.html")
    assert found.verdict.startswith("Do not use it: This run was changed after it was made")
    assert not found.ok
    assert f"{name} is not what was written" in found.faults
    assert f"{name} is not what was written" in (tmp_path / "page.html").read_text(encoding="utf-8")


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
        assert ("1 held-out images are nearly one that training saw" in html) == told


def test_a_model_that_is_gone_is_told(validated_run: Path, tmp_path: Path) -> None:
    run = copy(validated_run, tmp_path / "run")
    for name in ("fp32", "int8"):
        shutil.rmtree(run.path / "openvino" / name)
        found = report(run, out=tmp_path / "page.html")
        assert found.verdict.startswith("Do not use it: This run was changed")
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
        assert "Do not use it" in said.stdout + said.stderr


def test_without_its_images_the_page_says_so(validated_run: Path, tmp_path: Path) -> None:
    run = copy(validated_run, tmp_path / "run")
    gone = run.manifest.model_copy(update={"data_root": str(tmp_path / "gone")})
    (run.path / "run.json").write_text(gone.model_dump_json(indent=2), encoding="utf-8")
    found = report(run.path, out=tmp_path / "page.html")
    assert found.ok
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Images are not shown: the images of this run are not where they were at training" in html
    (note,) = found.notes
    assert note.startswith("Images are not shown: ")
    assert "--data" in note
    assert "data:image/jpeg" not in html
    assert re.search(r"of 240, by openvino/\w+; 95 % interval", html)  # what was kept is still known


def test_an_unfinished_training_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "12.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="no finished run") as raised:
        report(tmp_path)
    assert "ftx train --resume" in str(raised.value)


def test_a_file_of_another_kind_stays(validated_run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<h1>mine</h1>", encoding="utf-8")
    with pytest.raises(InputError, match="no report of ftx is in the way"):
        report(validated_run, out=mine)
    assert mine.read_text(encoding="utf-8") == "<h1>mine</h1>"
    with pytest.raises(InputError, match="this is a folder"):
        report(validated_run, out=tmp_path)


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
