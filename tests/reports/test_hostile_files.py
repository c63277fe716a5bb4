"""Issue 22: 500 hostile files; each is refused with its name, within 10 seconds and 2 GiB, and nothing is called."""

from __future__ import annotations

import random

import pytest
from hostile import KINDS, Outcome, Variant, try_all

SAMPLE, ALL = 30, 520


def chosen(variants: list[Variant], number: int) -> list[Variant]:
    """So many at random, the same each time, as evenly of each kind as there are some."""
    rng = random.Random(0)
    piles = {kind: [each for each in variants if each.kind == kind] for kind in KINDS}
    for pile in piles.values():
        rng.shuffle(pile)
    rounds = [pile[turn] for turn in range(len(variants)) for pile in piles.values() if turn < len(pile)]
    return rounds[:number]


def told(outcomes: list[Outcome]) -> str:
    return "\n".join(f"{one.variant.kind}, {one.variant.name:.60}: {one.wrong:.300}" for one in outcomes)


def test_some_hostile_files() -> None:
    """Of the kinds that are read in a moment."""
    quick = [kind for kind in KINDS if not any(word in kind for word in ("AIM", "run", "best", "settings", "result"))]
    found = list(try_all(0, lambda variants: chosen(variants, SAMPLE), quick))
    assert not (wrong := [one for one in found if one.wrong]), told(wrong)


@pytest.mark.slow
def test_500_hostile_files() -> None:
    found = list(try_all(1, lambda variants: chosen(variants, ALL)))
    assert len(found) == ALL
    assert not (wrong := [one for one in found if one.wrong]), told(wrong)
