"""How sure a measured proportion or mean is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DRAWS = 2000  # of the bootstrap: its own noise is then small compared with the interval
_AT_ONCE = 2**22  # values that are drawn at once, 32 MB


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The ends of the 95 % confidence interval of a proportion (Wilson 1927), within [0, 1], of one trial or more.

    Example:
        >>> low, high = wilson_interval(8, 10)
        >>> round(low, 2), round(high, 2)
        (0.49, 0.94)
    """
    z = 1.959963984540054
    rate = successes / trials
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_means(values: Tensor, *, seed: int = 0) -> Tensor:
    """Means over images that are drawn with replacement, as often as there are images (Efron 1979).

    The columns of a draw are means over the same images, so that differences of columns are paired.

    Args:
        values: (N, C), a row per image, at least one and without NaN.
        seed: of the draws.

    Returns:
        (:data:`DRAWS`, C) float64.

    Example:
        >>> means = bootstrap_means(torch.tensor([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]))
        >>> bool(((means[:, 1] - means[:, 0] - 1).abs() < 1e-12).all())
        True
    """
    generator = torch.Generator().manual_seed(seed)
    wide, count = values.detach().cpu().double(), len(values)
    chunk = max(1, _AT_ONCE // (count * values.shape[1]))
    sizes = [chunk] * (DRAWS // chunk) + [DRAWS % chunk] * (DRAWS % chunk > 0)
    return torch.cat([wide[torch.randint(count, (size, count), generator=generator)].mean(1) for size in sizes])


def percentile_interval(draws: Tensor) -> tuple[float, float]:
    """The lower and the upper end of the middle 95 % of bootstrap draws (D,), without NaN.

    Example:
        >>> percentile_interval(torch.arange(101.0))
        (2.5, 97.5)
    """
    low, high = draws.cpu().double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
