"""The parts of the study: which settings each trains, for one tie and one seed."""

from __future__ import annotations

import itertools
from typing import Any

from variants import Config

from aimwrap import PAPER

TIES = (0.95, 1.0)
PROBES = tuple(itertools.product((1, 3, 6, 20, 60), (1e-4, 3e-4, 1e-3, 3e-3)))  # epochs and rates of plain's search
# What Config has of aimwrap.PAPER as fields of its own.
FIELDS_OF_PAPER = {name: PAPER[name] for name in PAPER if name in Config.__dataclass_fields__}
LOOK, LOOK_BY_CAM = "AIM, second look", "CAM, second look"
LOOK_AS_A_MODULE = "AIM, second look, pixels"


def headline(tie: float, seed: int) -> list[Config]:
    """Plain with its search, the control, and AIM with the feature-preserving head."""
    probes = [Config("plain", tie, seed, epochs=epochs, learning_rate=rate) for epochs, rate in PROBES]
    return [
        *probes,
        Config("open", tie, seed),
        Config("open", tie, seed, epochs=6, learning_rate=3e-4),
        Config("aim", tie, seed, tau=0.1),
        Config("aim", tie, seed, tau=0.25),
    ]


TRAINED = ((1e-5, "kept"), (1e-4, "kept"), (3e-5, "kept"), (1e-5, "adapted"))  # backbone's rate, BatchNorm
SEARCHED = ((6, 1e-3), (6, 3e-4), (6, 3e-3), (20, 3e-4), (20, 3e-3), (6, 1e-4), (3, 3e-4), (3, 1e-3))


def aim_search(tie: float, seed: int) -> list[Config]:
    """The search that plain gets, for AIM: without it, plain's favour would be ours to lose."""
    return [Config("aim", tie, seed, epochs=epochs, learning_rate=rate) for epochs, rate in SEARCHED]


def control_search(tie: float, seed: int) -> list[Config]:
    """The same search for the control."""
    of_the_headline = (6, 3e-4)
    return [
        Config("open", tie, seed, epochs=epochs, learning_rate=rate)
        for epochs, rate in SEARCHED
        if (epochs, rate) != of_the_headline
    ]


def paper_head(tie: float, seed: int) -> list[Config]:
    """The same with the paper's head, and its own control: four times as slow, so apart."""
    return [
        Config("open", tie, seed, head="paper"),
        Config("aim", tie, seed, tau=0.25, head="paper"),
    ]


def by_paper(tie: float, seed: int, **changes: Any) -> Config:
    """AIM by ``aimwrap.PAPER``."""
    return Config("aim", tie, seed, design="paper", **FIELDS_OF_PAPER | changes)


def paper_design(tie: float, seed: int) -> list[Config]:
    """The method of the paper's section 3, at the two settings that the headline has of ours."""
    return [by_paper(tie, seed), by_paper(tie, seed, tau=0.25)]


def paper_search(tie: float, seed: int) -> list[Config]:
    """The search that our design gets, for the paper's."""
    return [by_paper(tie, seed, epochs=epochs, learning_rate=rate) for epochs, rate in SEARCHED]


def paper_norms(tie: float, seed: int) -> list[Config]:
    """The norm of the mask estimators, which the paper does not name, in its design: which one keeps masks alive?"""
    return [by_paper(tie, seed, epochs=6, tau=0.25, mask_norm=norm) for norm in ("batch", "layer", "none")]


def paper_fine_tuned(tie: float, seed: int) -> list[Config]:
    """The paper's design with a backbone that is trained, as the paper trains it, at the rates that ours gets."""
    return [by_paper(tie, seed, epochs=6, backbone_rate=rate, norms=norms) for rate, norms in TRAINED]


def sparsity(tie: float, seed: int) -> list[Config]:
    """No area loss, to see whether masks become sparse by themselves: labels alone move the area of both designs."""
    ours = Config("aim", tie, seed, mask_weight=0.0, labels_move_area=True)
    return [by_paper(tie, seed, mask_weight=0.0), ours]


def oracle(tie: float, seed: int) -> list[Config]:
    """What is left to win: the linear probe without a background, and the true mask on the features."""
    return [
        Config("oracle", tie, seed),
        *(Config("true mask", tie, seed, epochs=e, learning_rate=rate) for e, rate in ((20, 1e-3), (6, 3e-4))),
    ]


def second_look(tie: float, seed: int) -> list[Config]:
    """A step beyond the paper, with and without, at AIM's two settings."""
    settings: tuple[dict[str, Any], ...] = (
        {"epochs": 6, "learning_rate": 3e-4},
        {"epochs": 6},
        {"epochs": 6, "tau": 0.25},
    )
    return [
        *(Config("aim", tie, seed, second_look=True, **setting) for setting in settings),
        Config("aim", tie, seed, epochs=6, tau=0.25),
    ]


def look_again(tie: float, seed: int) -> list[Config]:
    """A second look at the enlarged pixels that the masks keep, and at the plain map's, each with plain's search."""
    return [
        Config(method, tie, seed, epochs=epochs, learning_rate=rate)
        for method in (LOOK, LOOK_BY_CAM)
        for epochs, rate in PROBES
    ]


def pixels_again(tie: float, seed: int) -> list[Config]:
    """A second look at one setting, for how many of its predictions survive on other pixels."""
    return [Config(LOOK_AS_A_MODULE, tie, seed, epochs=6, learning_rate=3e-4)]


def rivals(tie: float, seed: int) -> list[Config]:
    """Other methods, with plain's search where they are as cheap, AIM's where they see the images again."""
    probes = [
        Config(method, tie, seed, epochs=epochs, learning_rate=rate)
        for method in ("balanced sampling", "group DRO")
        for epochs, rate in PROBES
    ]
    masktune = [
        Config("MaskTune", tie, seed, epochs=epochs, learning_rate=rate)
        for epochs, rate in itertools.product((1, 3, 6, 20), (3e-4, 1e-3))
    ]
    return [
        *probes,
        *masktune,
        Config("DFR", tie, seed),
        Config("AIM with DFR", tie, seed),
        Config("AIM with DFR", tie, seed, epochs=6, learning_rate=3e-4),
    ]


def table_1(tie: float, seed: int) -> list[Config]:
    """The paper's AIM [1 | 2, 25 % | 35 %] on these images: stages from stride 8 or from stride 16."""
    return [
        Config("aim", tie, seed, stages=stages, tau=tau)
        for stages, tau in itertools.product(((2, 3), (1, 2, 3)), (0.25, 0.35))
        if (stages, tau) != ((2, 3), 0.25)  # of the headline
    ]


def bottom_up(tie: float, seed: int) -> list[Config]:
    """The paper's Table 2: masks that feed the next stage."""
    return [
        Config("bottom-up", tie, seed, tau=0.25),
        Config("bottom-up", tie, seed, tau=0.25, labels_move_area=True),
        Config("bottom-up", tie, seed),
    ]


def ablations(tie: float, seed: int) -> list[Config]:
    """One setting changed at a time, from AIM at tau 0.1 with the feature-preserving head."""
    changes: list[dict[str, Any]] = [
        {"refinement": "intersection"},
        {"refinement": "union"},
        {"refinement": "finest"},
        {"stages": (3,)},
        {"stages": (1, 2, 3)},
        {"tau": 0.05},
        {"tau": 0.35},
        {"pooling": "all"},
        {"tau_start": 0.5},
        {"anneal_share": 0.2},
        {"anneal_share": 0.8},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"mask_width": 8},
        {"mask_width": 64},
        {"mask_norm": "batch"},
        {"mask_norm": "none"},
        {"mask_weight": 2.0},
        {"mask_weight": 20.0},
        {"stage_weight": 0.0},
        {"area_per": "batch"},
        {"labels_move_area": True},
        {"epochs": 60},
    ]
    return [Config("aim", tie, seed, **change) for change in changes]


def fine_tuned(tie: float, seed: int) -> list[Config]:
    """The backbone trained too, plain and AIM with the same rates and epochs."""
    return [
        Config(method, tie, seed, epochs=6, backbone_rate=rate, norms=norms)
        for rate, norms in TRAINED
        for method in ("plain", "aim", "open")
    ]


PARTS = {
    "headline": headline,
    "aim-search": aim_search,
    "control-search": control_search,
    "paper-head": paper_head,
    "paper-design": paper_design,
    "paper-search": paper_search,
    "paper-norms": paper_norms,
    "paper-fine-tuned": paper_fine_tuned,
    "sparsity": sparsity,
    "oracle": oracle,
    "ablations": ablations,
    "fine-tuned": fine_tuned,
    "second-look": second_look,
    "look-again": look_again,
    "pixels-again": pixels_again,
    "bottom-up": bottom_up,
    "rivals": rivals,
    "table-1": table_1,
}
ONE_TIE = ("oracle", "ablations", "second-look", "bottom-up", "pixels-again", "paper-norms")  # only at 100 %


def ties_of(part: str) -> tuple[float, ...]:
    return (1.0,) if part in ONE_TIE else TIES
