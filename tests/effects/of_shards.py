"""What the flags of ``ftx data shard`` change."""

from __future__ import annotations

import json

from tests.effects.lab import Lab


def _made(lab: Lab, name: str, *words: str) -> dict[str, object]:
    lab.done("data", "shard", *words, lab.root / name)
    return json.loads((lab.root / name / "shards.json").read_text())


def data(lab: Lab, flag: str, value: str) -> None:
    made, checked = _made(lab, "shards-data", value), lab.done("data", "check", value, "--json").json
    assert made["images"] == sum(checked["images"].values())
    assert lab.done("data", "check", lab.root / "shards-data", "--json").json["counts"] == checked["counts"]
    assert lab.call("data", "shard", "nowhere", lab.root / "shards-nowhere").status == 2


def out(lab: Lab, flag: str, value: str) -> None:
    _made(lab, value, "noise")
    assert sorted(path.name for path in (lab.root / value).iterdir()) == ["0000.tar", "shards.json"]
    assert lab.call("data", "shard", "noise", lab.root / value).status == 2  # something is there


def per_shard(lab: Lab, flag: str, value: str) -> None:
    made = _made(lab, "shards-few", "noise", flag, value)
    sizes = [shard["images"] for shard in made["shards"]]  # pyright: ignore[reportIndexIssue, reportGeneralTypeIssues, reportUnknownVariableType]
    assert max(sizes) == int(value)
    assert sum(sizes) == made["images"]
    assert len(_made(lab, "shards-all", "noise")["shards"]) == 1  # pyright: ignore[reportArgumentType]


def task(lab: Lab, flag: str, value: str) -> None:
    """Of folders in folders: a tree of labels, or nothing that classes could be."""
    for name in ("a/b", "a/c", "d"):
        (lab.root / "shard-tree" / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            source = sorted((lab.root / "noise").rglob("*.png"))[number + 2 * ord(name[-1]) % 7]
            (lab.root / "shard-tree" / name / f"{number}.png").write_bytes(source.read_bytes())
    assert _made(lab, "shards-tree", "shard-tree", flag, value)["images"] == 6
    assert lab.call("data", "shard", "shard-tree", lab.root / "shards-flat", flag, "multiclass").status == 2


def form(lab: Lab, flag: str, value: str) -> None:
    said = lab.call("data", "shard", "noise", lab.root / "shards-form", flag, value)
    assert said.status in (2, 3)
    assert "datumaro" in said.err


def links(lab: Lab, flag: str, value: str) -> None:
    words = ("data", "shard", lab.linked(), lab.root / "shards-linked")
    assert lab.call(*words).status == 2
    assert lab.done(*words, flag, "--json").json["images"] == 20


def as_object(lab: Lab, flag: str, value: str) -> None:
    said = lab.done("data", "shard", "noise", lab.root / "shards-json", flag).json
    assert said["verb"] == "data shard"
    assert "ftx train --data" in lab.done("data", "shard", "noise", lab.root / "shards-told").err
