"""How often the verdict of ``ftx validate`` errs and how often it tells: the table of docs/decisions/0008-verdict.md.

One artifact by itself in exact sums over the trinomial distribution; several together by simulation from a fixed seed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from scipy.stats import multinomial

from ftx.core.statistics import PairedCounts, holm

MARGIN = 0.02
IMAGES = (150, 300, 500, 1000, 2000)


def chance_of(images: int, lost: float, gained: float, *, proved: bool, confidence: float = 0.95) -> float:
    """How often the margin is called proved, or exceeded, where such shares of all images are lost and gained."""
    spread = 6 * np.sqrt(images * (gained + lost)) + 12
    middle = images * gained
    won = np.arange(max(0, int(middle - spread)), int(middle + spread) + 1) if gained else np.arange(1)
    total = 0.0
    for count in range(int(max(0, images * lost - spread)), int(images * lost + spread) + 1):

        def within(g: int, count: int = count) -> bool:
            units = PairedCounts(count, int(g), images)
            if proved:
                return units.drop_at_most(confidence) <= MARGIN
            return units.drop_at_least(confidence) <= MARGIN

        # The more are gained for those lost, the less is lost: the first for which it holds is found by bisection.
        first = bisect_left(won, True, key=within)
        some = won[first:] if proved else won[:first]
        if len(some):
            ways = np.stack([np.full_like(some, count), some, images - count - some], axis=-1)
            total += multinomial.pmf(ways, images, [lost, gained, 1 - lost - gained]).sum()
    return float(total)


def family(artifacts: int, rows: int, images: int, gained: float, alike: float, draws: int) -> tuple[float, float]:
    """How often any of several artifacts at exactly the margin is called proved, and any of their rows failed.

    Each artifact has so many rows on the same images; ``alike`` is the share of a row's changes that its others share.
    """
    generator = np.random.default_rng(0)
    lost = gained + MARGIN
    proved = failed = 0
    for _ in range(draws):
        within: list[float] = []
        beyond: list[float] = []
        for _ in range(artifacts):
            common = generator.multinomial(images, [lost * alike, gained * alike, 1 - (lost + gained) * alike])
            own = [
                common[:2]
                + generator.multinomial(
                    images, [lost * (1 - alike), gained * (1 - alike), 1 - (lost + gained) * (1 - alike)]
                )[:2]
                for _ in range(rows)
            ]
            units = [PairedCounts(int(a), int(b), images) for a, b in own]
            within.append(max(one.chance_within(MARGIN) for one in units))
            beyond += [one.chance_beyond(MARGIN) for one in units]
        proved += any(refused for refused, _ in holm(within, 0.05))
        failed += any(refused for refused, _ in holm(beyond, 0.05))
    return proved / draws, failed / draws


def table(title: str, columns: Sequence[object], rows: Sequence[tuple[str, Sequence[float]]]) -> None:
    print(f"\n{title}\n\n| | {' | '.join(map(str, columns))} |\n|---{'|---' * len(columns)}|")
    for name, values in rows:
        print(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in values)} |")


def main() -> None:
    shares = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    for proved, what in ((True, "proved"), (False, "failed")):
        table(
            f"Called {what} where the true drop is the margin, 0.02, %; images and share gained",
            shares,
            [(str(n), [chance_of(n, gained + MARGIN, gained, proved=proved) for gained in shares]) for n in IMAGES],
        )
    for proved, what, points in (
        (True, "proved", ((0.0, 0.0), (0.002, 0.002), (0.01, 0.01), (0.01, 0.005), (0.02, 0.01), (0.03, 0.03))),
        (False, "failed", ((0.04, 0.01), (0.05, 0.01), (0.07, 0.01), (0.1, 0.01))),
    ):
        table(
            f"Called {what}, %; images, and shares lost / gained",
            [f"{lost:g} / {gained:g}" for lost, gained in points],
            [(str(n), [chance_of(n, lost, gained, proved=proved) for lost, gained in points]) for n in IMAGES],
        )
    rows = [
        (f"{count} artifacts, rows alike to {alike:g}", family(count, 2, 500, 0.01, alike, 400))
        for count in (1, 2, 3)
        for alike in (0.5, 0.9)
    ]
    table(
        "Any called proved, any row called failed, all at the margin; 500 images, 0.01 gained, 400 draws, %",
        ("proved", "failed"),
        rows,
    )


if __name__ == "__main__":
    main()
