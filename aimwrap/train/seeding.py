"""Numbers that depend on what they are for and on nothing that was drawn before."""

from __future__ import annotations

_MASK = 2**64 - 1


def mixed(*parts: int) -> int:
    """One number of many, well mixed: any two lists that differ give numbers that have nothing in common.

    SplitMix64's last step (Steele, Lea and Flood 2014), once for each part.

    Args:
        *parts: whole numbers, not negative.

    Returns:
        A number from 0 to 2^63 - 1, which fits torch's int64 and every generator's seed.

    >>> mixed(0, 1, 2) == mixed(0, 1, 2), mixed(0, 1, 2) == mixed(0, 2, 1)
    (True, False)
    """
    state = 0
    for part in parts:
        state = (state ^ part) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


def seed_of_image(seed: int, epoch: int, image: int) -> int:
    """What an image's augmentation and its masks' noise are made of, in one epoch.

    Args:
        seed: of the run.
        epoch: from 0.
        image: its number in the data set.
    """
    return mixed(seed, 1, epoch, image)


def seed_of_order(seed: int, epoch: int) -> int:
    """What an epoch's order of images is drawn with."""
    return mixed(seed, 2, epoch)


def seed_of_process(seed: int, rank: int) -> int:
    """What a process's own generators start from, which dropout draws from."""
    return mixed(seed, 3, rank)


def seed_of_hold_out(seed: int) -> int:
    """What decides which training images are held out."""
    return mixed(seed, 4)
