"""What a model is, in a few plain words: the facts of its card."""

from __future__ import annotations

from ..sharing.card import facts_of, listed_classes, prepared_as
from .subjects import Subject


def card_of(subject: Subject) -> list[dict[str, str]]:
    """A model's facts by name, as plain text."""
    if subject.aim is not None:
        facts = facts_of(subject.aim)
    else:
        network, pooled = subject.network, subject.pooled
        assert pooled is not None
        parameters = sum(parameter.numel() for parameter in network.parameters())
        facts = [
            ("network", f"{type(network).__name__}, {parameters / 1e6:.2f} M parameters, without masks"),
            ("heatmap", f"class activation map, {pooled.linear.in_features} channels"),
            ("classes", listed_classes(subject.num_classes, subject.class_names)),
            ("images", prepared_as(subject.preprocessing)),
        ]
    return [{"name": name, "value": value} for name, value in facts]
