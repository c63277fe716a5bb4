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


def test_precision_leaves_out_images_without_an_object_as_chance_and_recall_do() -> None:
    """They counted as 0, so a mask at chance seemed to avoid the object; a crop may cut an object away, too."""
    objects, masks = torch.zeros(3, 4, 4), torch.ones(3, 1, 2, 2)
    objects[0, :2] = 1
    look = Look(AIMOutput(torch.zeros(3, 2), {}, {}), torch.ones(3, 2, 2), (2, 2), masks)
    for known in (None, torch.tensor([True, True, False])):
        measured = measure(look, torch.zeros(3, dtype=torch.int64), objects, (2, 2), known)
        for score in (measured.mask_precision, measured.chance):
            assert score[0] == 0.5 and score[1:].isnan().all()
