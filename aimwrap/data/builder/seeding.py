"""A random generator for each image, so that an image depends on seed, stream and index alone."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator


def generator_of(seed: int, stream: int, index: int = -1) -> Generator:
    """A generator of its own for each image, and one for what concerns all images of a stream.

    Args:
        seed: of the whole set.
        stream: what is drawn; the splits of a set are streams of their own.
        index: of the image in its split; -1 for what concerns them all.

    Returns:
        A generator, equal whenever the three numbers are, and in any process.

    >>> float(generator_of(0, 1, 7).random()) == float(generator_of(0, 1, 7).random())
    True
    >>> float(generator_of(0, 1, 7).random()) == float(generator_of(0, 1, 8).random())
    False
    """
    return np.random.default_rng([seed, stream, index + 1])
