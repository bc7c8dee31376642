"""``trained/README.md`` of a stranger's run: merging reads what was measured from it, and nothing more happens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.effects.lab import call
from tests.gates.faults import vouch

WRONG = {
    "bad YAML": "---\na: [1\n---\n",
    "no text": b"---\na: \xff\xfe\n---\n",
    "a list": "---\n- a\n- b\n---\n",
    "an odd index": "---\nmodel-index: 7\n---\n",
    "an index of nothing": "---\nmodel-index:\n- name: x\n---\n",
    "metrics 7": "---\nmetrics: 7\n---\n",
    "metrics of lists": "---\nmetrics: [[1]]\n---\n",
    "a tag": "---\na: !!python/object/apply:os.system ['touch marker']\n---\n",
    "brackets": "---\na: " + "[" * 5000 + "\n---\n",
    "self": "---\nself: 1\n---\n",
    "another key": "---\nignore_metadata_errors: 1\n---\n",
    "no figure": (
        "---\nmodel-index:\n- name: x\n  results:\n  - task: {type: a}\n    dataset: {type: b, name: c}\n"
        "    metrics:\n    - {type: accuracy, value: high}\n---\n"
    ),
    "blanks": " " * 20_000_000,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_card_that_does_not_hold_is_one_error(name: str, whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    content = WRONG[name]
    (run / "trained" / "README.md").write_bytes(content if isinstance(content, bytes) else content.encode())
    vouch(run)
    before = sorted(path.name for path in (run / "dense").iterdir())
    said = call("merge", str(run))
    assert said.status == 2
    assert "the model card of trained/ is invalid" in " ".join(said.err.split())
    assert sorted(path.name for path in (run / "dense").iterdir()) == before
    assert not Path("marker").exists()


def test_a_run_without_one_is_merged(whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    (run / "trained" / "README.md").write_text("# Mine\n")
    vouch(run)
    assert call("merge", str(run)).status == 0
    assert "## Evaluation results" not in (run / "dense" / "README.md").read_text()
