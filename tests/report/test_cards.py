"""Which images are shown, and that no more is kept than has to be."""

import random

import pytest

from aimwrap.report.cards import Cards

BADNESS = [(value, 0.0) for value in random.Random(0).sample(range(1000), 200)]


def gathered(limit: int, seed: int = 0, badness: list[tuple[float, float]] = BADNESS) -> tuple[Cards, list[int], int]:
    cards, made, most = Cards(len(badness), limit, seed), [], 0
    for index, value in enumerate(badness):
        cards.add(index, value, lambda index=index: made.append(index) or {"index": index})  # type: ignore[misc]
        most = max(most, len(cards._cards))
    return cards, [index for index, card in cards.shown() if card == {"index": index}], most


def test_all_are_shown_from_the_worst_on() -> None:
    cards, shown, _ = gathered(200)
    assert shown == sorted(range(200), key=lambda index: BADNESS[index], reverse=True)
    assert cards.counts is None


@pytest.mark.parametrize("limit", [1, 2, 7, 20, 199])
def test_half_are_the_worst_and_half_are_drawn(limit: int) -> None:
    cards, shown, most = gathered(limit)
    worst, drawn = cards.counts or (0, 0)
    assert worst + drawn == limit == len(set(shown)) and worst - drawn in (0, 1)
    ranked = sorted(range(200), key=lambda index: BADNESS[index], reverse=True)
    assert set(ranked[:worst]) <= set(shown)
    assert shown == sorted(shown, key=lambda index: BADNESS[index], reverse=True)
    assert most <= limit + worst


def test_the_lot_is_fair_and_by_seed() -> None:
    drawn: list[int] = []
    for seed in range(60):
        _, shown, _ = gathered(20, seed)
        ranked = sorted(shown, key=lambda index: BADNESS[index], reverse=True)
        drawn += ranked[10:]
    others = sorted(range(200), key=lambda index: BADNESS[index], reverse=True)[10:]
    thirds = [sum(index in part for index in drawn) for part in (others[:63], others[63:126], others[126:])]
    assert min(thirds) > 140 and sum(thirds) == 600  # 200 each, and a deviation of 12
    assert gathered(20, 5)[1] == gathered(20, 5)[1] != gathered(20, 6)[1]


def test_ties_are_broken_by_the_second_number_and_then_by_the_order() -> None:
    _, shown, _ = gathered(4, badness=[(0.5, 0.1), (0.5, 0.3), (0.5, 0.3), (0.9, 0.0)])
    assert shown == [3, 1, 2, 0]
