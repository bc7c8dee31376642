"""Kills ``ftx apply`` at random moments: ``python -m tests.benchmarks.apply_kills BASE ONE TWO COUNT``.

``ONE`` and ``TWO`` are updates of ``BASE``, the second after the first. After each kill the model is, byte for byte,
one of the two that they make. Prints how many of each there were, and what was left beside it in the end.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from ftx.core.files import sha256_file
from ftx.updating.apply import apply, rollback


def main(base: Path, one: Path, two: Path, count: int) -> None:
    """Ends with status 1 where a model was neither."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        apply(one, base, out)
        first = _hashes(out)
        words = [sys.executable, "-m", "ftx", "apply", str(two), str(base), str(out)]
        started = time.monotonic()
        subprocess.run(words, check=True, capture_output=True)
        whole_s = time.monotonic() - started
        second = _hashes(out)
        rollback(out)
        chance, found = random.Random(0), Counter[str]()
        for _ in range(count):
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # Evenly over its time, and as often about its end, where the folders swap.
            time.sleep(chance.choice((chance.uniform(0, 1), chance.uniform(0.93, 1.03))) * whole_s)
            process.kill()
            process.wait()
            now = _hashes(out)
            state = {str(first): "the old one", str(second): "the new one"}.get(str(now), "BROKEN")
            found[state] += 1
            if state == "the new one":
                rollback(out)
        rollback(out)
        left = sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith(".ftx-partial"))
        print(f"{count} kills of an apply of {whole_s:.1f} s: {dict(found)}; beside it {left}")
        sys.exit(1 if found["BROKEN"] else 0)


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
