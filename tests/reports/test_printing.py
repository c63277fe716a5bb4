"""Issue 22, number 30: what is printed often is not computed each time."""

import pytest
from torch import nn
from zoo import TinyNet

from aimwrap import AIM, base


def test_the_cost_is_counted_once_until_a_module_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ``print(model)`` ran the network, which takes seconds for a large one; a notebook prints often."""
    model, counted, count = AIM(TinyNet(), [2, 3]), [], base.count_macs
    monkeypatch.setattr(base, "count_macs", lambda module, shape: counted.append(module) or count(module, shape))
    assert repr(model) == repr(model) and len(counted) == 2  # the model and its backbone
    before = model.cost()
    model.classifier = nn.Linear(model.classifier.in_features, 70)
    assert model.cost().macs > before.macs and len(counted) == 4
