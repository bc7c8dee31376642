"""What a run's folder holds: checkpoints by their step, digests of what models are made of."""

from __future__ import annotations

from pathlib import Path

from tests.runs.small_run import small_run

from ftx.runs.artifacts import DENSE, IR_FP32, IR_INT8
from ftx.runs.run_json import checkpoint_records, is_run


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    """As numbers: by their text 1000 would come before 99."""
    assert not is_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("99.json", "1000.json", "7.json", "100.json", "best.json", "1001.safetensors"):
        (tmp_path / "checkpoints" / name).touch()
    assert [path.name for path in checkpoint_records(tmp_path)] == ["1000.json", "100.json", "99.json", "7.json"]
    assert is_run(tmp_path)


def test_a_digest_is_of_all_files_of_one_model_but_its_card(tmp_path: Path) -> None:
    manifest = small_run(tmp_path / "run", (DENSE, IR_FP32, IR_INT8)).manifest

    def with_file(name: str) -> list[str]:
        changed = manifest.model_copy(update={"files": manifest.files | {name: "0" * 64}})
        return [one.name for one in (DENSE, IR_FP32, IR_INT8) if changed.digest(one) != manifest.digest(one)]

    assert with_file("dense/weights") == with_file("dense/more") == ["dense"]
    assert with_file("openvino/int8/weights") == ["openvino/int8"]
    # A name that begins as the folder's is none in it; int8-weights is another artifact than int8.
    assert with_file("openvino/int8-weights/model.bin") == with_file("dense2/weights") == []
    assert with_file("dense/README.md") == with_file("reports/parity.json") == []
    assert with_file("dense/sub/README.md") == ["dense"]
