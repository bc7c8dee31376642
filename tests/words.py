"""Words that only ftx would use, and the standard ones to write instead: ``python -m tests.words`` finds them.

In the source, with its help, messages, pages and model cards; in README.md, the changelog and the pages.

Names count too: ``RefusedBody`` and ``refused_body`` contain "refused". Keys and values of files, JSON, HTTP and flags
are contracts and stay as they are: CONTRACTS has them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in ("pages", "decisions")
    for path in (ROOT / "docs" / folder).rglob("*.md")
    if path.resolve() == path and path.name not in ("commands.md", "errors.md", "json.md")  # made of the source
)
READ = (ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *PAGES)
SCANNED = (".py", ".html", ".js", ".css", ".yaml")
# An expression for a word in lower case, spaces for the spaces or underscores between its parts: what to write instead.
WORDS = {
    "said|told|tells?": "summary, message, report",
    "verbs?": "command",
    "rooms?": "package",
    "fore(man|men)": "coordinator",
    "refus(e|es|ed|ing|als?)": "check (raises), reject",
    "twins?": "near-duplicate groups",
    "asks?|asked|asking|asker": "run, evaluate, require",
    "answers?|answered|answering": "prediction, output",
    "go(es|ing|ne)? on|went on|cut off": "resume, interrupted",
    "begun|anew|besides?|so many|learnt|uncut|surest|rivals?|strangers?|thereby|hence|whence": "plain English",
    "one voice|speaks?|spoken": "rank-zero output",
    "travel(s|led)?": "bundled",
    "lays?": "load, restore, use as defaults",
    "hangs?|hung": "depends on",
    "held to|holds? to|(does|do) not hold": "must meet, limited to, is invalid",
    "weigh(s|ed|ing)?": "size of",
    "ahead": "prefetch",
    "paid": "CPU quota",
    "rate shares?": "lr multiplier",
    "mend(s|ed|ing)?": "fix",
    "alone": "only",
    "decides? by itself": "independent label",
    "the field.s trainer|sheets of garments": "baseline trainer (OTX settings), multi-label collages",
    "(nothing|nothing that was trained) (was|is) lost": "at most N points lost",
    "separate products": "unmerged forward",
    "exclude each other": "mutually exclusive classes",
}
# Names that others chose or rely on: fields and values of files, JSON and HTTP, timm's networks, Optuna's methods.
CONTRACTS = re.compile(
    r"""
    \bverb(?=:\ str|=|`)|\.verb\b | \bmend\( | begun_from | \bsaid(?=`|")
    | answers(?=\.safetensors|:|=|")|\.answers\b|reports/answers | ftx-answered | "refused"
    | \b[Tt]wins(?=\b|") | study\.(ask|tell)\( | def\ tell\(
    """,
    re.VERBOSE,
)
_PATTERNS = {
    re.compile(rf"(?<![a-z])(?:{word.replace(' ', '[ _]')})(?![a-z])"): instead for word, instead in WORDS.items()
}


def found(path: Path) -> Iterator[tuple[int, str, str]]:
    """The line number of each such word, the word, and what to write instead."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if path.suffix == ".md":  # what is quoted there is a name
            line = re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)
        apart = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", CONTRACTS.sub("", line)).lower()
        for pattern, instead in _PATTERNS.items():
            for match in pattern.finditer(apart):
                yield number, match[0], instead


def main() -> int:
    """Print each word that is not a contract; 1 if there is one."""
    source = [path for path in sorted((ROOT / "src").rglob("*.*")) if path.suffix in SCANNED]
    wrong = [(path, *word) for path in (*READ, *source) for word in found(path)]
    for path, number, word, instead in wrong:
        print(f"{path.relative_to(ROOT)}:{number}: {word!r}: write {instead}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
