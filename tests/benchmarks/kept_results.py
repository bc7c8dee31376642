"""Results that a second start goes on from: only where it measures the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path


def refuse_others(out: Path, asked: Mapping[str, object]) -> None:
    """Note beside results what they are of, and end where those that lie there are of something else."""
    out.mkdir(parents=True, exist_ok=True)
    noted, now = out / "asked.json", json.dumps(asked, indent=1, sort_keys=True) + "\n"
    if noted.is_file() and noted.read_text() != now:
        raise SystemExit(f"{out} holds results of {noted.read_text()}not of {now}: name another folder")
    noted.write_text(now)


def listing_digest(data: Path) -> str:
    """Of the names and sizes of all files of a data set, or of its table."""
    files = sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]
    listed = [(path.relative_to(data.parent).as_posix(), path.stat().st_size) for path in files]
    return sha256(repr(listed).encode()).hexdigest()
