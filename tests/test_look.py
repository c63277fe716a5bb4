"""What is measured of a look at a batch."""

import torch

from aimwrap import AIMOutput
from aimwrap.analysis.look import Look, measure


def test_the_predicted_class_is_the_largest_logit_also_where_the_softmax_has_a_tie() -> None:
    """In float32 the softmax rounds these pairs to equal values, of which its argmax would take the first."""
    logits = torch.tensor([[1e-9, 2e-9], [-1e-9, 0.0], [2e-9, 1e-9]])
    assert (logits[:, 0] != logits[:, 1]).all() and (logits.softmax(1)[:, 0] == logits.softmax(1)[:, 1]).all()
    heatmaps, labels = torch.ones(3, 2, 2), torch.tensor([1, 1, 1])
    measured = measure(Look(AIMOutput(logits, {}, {}), heatmaps, (2, 2)), labels, torch.ones(3, 4, 4), (2, 2))
    assert measured.predicted.tolist() == [1, 1, 0]
    assert measured.right.tolist() == [True, True, False]
