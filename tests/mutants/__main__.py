"""``python -m tests.mutants``: faults put into the source one at a time, and whether the tests notice.

draw    keep the sample (list.jsonl) true to the source: entries that no longer apply give way to others
run     each mutant, and each fault of by_hand.toml, against the tests of `make test` that run its line
        (`make mutants`; status 1 where less than 95 % of the mutants or 90 % of the others are noticed)
show    the change that a mutant makes
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from tests.mutants import children
from tests.mutants.by_hand import BY_HAND, read_faults
from tests.mutants.covering import Covering, record, state_of
from tests.mutants.running import Runner, apply
from tests.mutants.sample import COUNT, HERE, LIST, PACKAGES, diff, draw, interleaved, mutants_of, read_list, write_list

# Of the mutants that are not equivalent, and of the faults that were written by hand.
BAR, BAR_BY_HAND = 0.95, 0.9
EQUIVALENT = HERE / "equivalent.toml"


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawing = verbs.add_parser("draw", help="replace the entries that no longer apply")
    drawing.add_argument("--anew", action="store_true", help="keep none")
    drawing.add_argument("--count", type=int, default=COUNT)
    running = verbs.add_parser("run", help="run the list; goes on where it was interrupted")
    running.add_argument("--root", type=Path, default=HERE.parents[1], help="the repository to mutate, this one")
    running.add_argument("--workers", type=int, default=2)
    running.add_argument("--package", action="append", metavar="NAME", default=[], help="as the table calls it")
    running.add_argument("--by-hand", action="store_true", help="only the faults of by_hand.toml")
    running.add_argument("--only", action="append", metavar="ID", default=[])
    running.add_argument("--survivors", action="store_true", help="only those that the last run left alive")
    running.add_argument("--anew", action="store_true", help="forget what is known of this source and these tests")
    running.add_argument("--tests", action="append", default=[], metavar="FILE", help="run these tests and no others")
    showing = verbs.add_parser("show", help="print what a mutant changes")
    showing.add_argument("only", nargs="+", metavar="ID")
    given = parser.parse_args()
    return {"draw": _draw, "run": _run, "show": _show}[given.verb](given)


def _draw(given: argparse.Namespace) -> int:
    kept = [] if given.anew else read_list()
    sample, gone = draw(HERE.parents[1], kept, given.count)
    for mutant in gone:
        say(f"no longer applies: {mutant.id}  {mutant.line}")
    write_list(sample)
    say(f"{len(sample)} mutants in {LIST.name}, {len(set(sample) - set(kept))} of them new")
    return 0


def _show(given: argparse.Namespace) -> int:
    pairs = apply(read_list(), mutants_of(HERE.parents[1])) + read_faults(HERE.parents[1])[0]
    found = [pair for pair in pairs if pair[0].id in given.only]
    for mutant, place in found:
        say(f"{mutant.id}\n{diff(mutant, place, 3)}\n")
    return 0 if len(found) == len(given.only) else 2


def _run(given: argparse.Namespace) -> int:
    # Without randomness of hashes: a mutant meets the same order of sets each time.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, sys.orig_argv, os.environ | {"PYTHONHASHSEED": "0"})
    root = given.root.resolve()
    build = root / "build" / "mutants"
    build.mkdir(parents=True, exist_ok=True)
    sample = [] if given.by_hand else read_list()
    drawn = apply(sample, mutants_of(root))
    by_hand, gone = read_faults(root)
    pairs = interleaved([*drawn, *by_hand])
    stale = sorted({mutant.id for mutant in [*sample, *gone]} - {mutant.id for mutant, _ in pairs})
    for name in stale:
        say(f"no longer applies: {name}")
    if given.package:
        pairs = [pair for pair in pairs if pair[0].package in given.package]
    if given.only:
        pairs = [pair for pair in pairs if pair[0].id in given.only]
    if not pairs:
        say("no such mutant in the list")
        return 2

    lock = (build / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another run is at work in {build}")
        return 2
    children.load_heavy()
    nothing = Covering(root, tests={}, fixtures={}, failed={}, lines={})
    covering = nothing if given.tests else record(root, build, given.workers, say)
    for name, why in covering.failed.items():
        if why != "skipped":
            say(f"fails without a mutant, left out: {name}")
    runner = Runner(root, build, covering, given.workers, state_of(root), given.tests)
    past = runner.past()
    queue = pairs
    if given.survivors:
        queue = [pair for pair in queue if past.get(pair[0].id, {}).get("outcome", "survived") == "survived"]
    if not (given.anew or given.only):
        queue = [pair for pair in queue if past.get(pair[0].id, {}).get("state") != runner.state]
    say(f"{len(queue)} of {len(pairs)} mutants to run")
    started = time.monotonic()
    try:
        for number, result in enumerate(runner.run(queue), 1):
            past[result["id"]] = result
            minutes = (time.monotonic() - started) / 60
            how = result.get("test") or result.get("said") or f"{result.get('ran', 0)} tests"
            told = f"{result['outcome']:9} {result['cpu_s']:5.1f} s {result['id']}  {how}"
            say(f"{number}/{len(queue)} {minutes:.1f} min {told}")
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        _report(pairs, past, build, runner.state)
        return 130
    good = _report(pairs, past, build, runner.state)
    if stale:
        say(
            f"{len(stale)} entries no longer apply: `python -m tests.mutants draw` replaces those of the list, and "
            "you put the same effect of one of by_hand.toml into the source as it is now"
        )
    return 0 if good and not stale else 1


def _report(pairs: list[Any], past: dict[str, dict[str, Any]], build: Path, state: str) -> bool:
    """Print the table and the survivors; whether enough were killed."""
    reasons: dict[str, str] = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.exists() else {}
    for name in sorted(set(reasons) - {mutant.id for mutant in read_list()}):
        say(f"listed as equivalent, but not in the list: {name}")
    rooms = {mutant.package for mutant, _ in pairs} - set(PACKAGES)
    counts: dict[str, Counter[str]] = {package: Counter() for package in [*PACKAGES, *sorted(rooms)]}
    alive: list[str] = []
    earlier = 0
    for mutant, place in pairs:
        result = past.get(mutant.id)
        outcome = "not run" if result is None else result["outcome"]
        earlier += result is not None and result["state"] != state
        if mutant.id in reasons:
            if outcome in ("killed", "timed out"):
                say(f"listed as equivalent, but killed: {mutant.id}")
            outcome = "equivalent"
        elif outcome == "survived":
            effect = f"\n# {mutant.becomes}" if mutant.function == BY_HAND else ""
            alive.append(f"{mutant.id}  {(result or {}).get('said') or ''}{effect}\n{diff(mutant, place)}\n")
        counts[mutant.package][outcome] += 1
    (build / "survivors.diff").write_text("\n".join(alive), encoding="utf-8")
    say("\n" + "\n".join(alive))
    columns = ("mutants", "killed", "timed out", "survived", "equivalent", "not run")
    say(f"{'':20}" + "".join(f"{column:>11}" for column in columns) + f"{'share':>9}")
    total, total_by_hand = Counter[str](), Counter[str]()
    for package, count in counts.items():
        (total_by_hand if package in rooms else total).update(count)
    rows = {**counts, "all mutants": total, f"all {BY_HAND}": total_by_hand}
    for package, count in rows.items():
        if count.total():
            cells = [count.total(), *(count[column] for column in columns[1:])]
            say(f"{package:20}" + "".join(f"{cell:11}" for cell in cells) + f"{_share(count):9.1%}")
    if earlier:
        say(f"{earlier} results are from an earlier state of the source or its tests")
    summary = {package: dict(count) for package, count in rows.items()}
    (build / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    reached = (not count.total() or _share(count) >= bar for count, bar in ((total, BAR), (total_by_hand, BAR_BY_HAND)))
    return all(reached) and not any(count["not run"] for count in counts.values())


def _share(count: Counter[str]) -> float:
    """Killed, of those that ran and are not equivalent."""
    killed = count["killed"] + count["timed out"]
    return killed / max(killed + count["survived"], 1)


if __name__ == "__main__":
    sys.exit(main())
