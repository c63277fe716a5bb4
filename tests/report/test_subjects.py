"""What models make of a batch, AIM or plain, against `explain` and against the logits."""

import pytest
import torch
from zoo import TinyNet

from aimwrap import AIM, Preprocessing, explain
from aimwrap.report.subjects import Subject

PREPROCESSING = Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(("head", "pooling"), [("paper", "all"), ("paper", "active"), ("feature-preserving", "all")])
def test_contributions_are_those_of_explain(head: str, pooling: str) -> None:
    aim = AIM(TinyNet(), [2, 3], head=head, pooling=pooling, width=16, mask_width=8).eval()
    images = torch.randn(5, 3, 64, 64)
    look, explanation = Subject(aim, "model", preprocessing=PREPROCESSING).look(images), explain(aim, images)
    predicted = explanation.logits.argmax(1)
    assert torch.equal(look.output.logits.argmax(1), predicted)
    assert torch.allclose(look.heatmap, explanation.contributions[torch.arange(5), predicted], atol=1e-6)
    assert look.merged_mask is not None and torch.equal(look.merged_mask, explanation.merged_mask)
    assert (look.heatmap[look.merged_mask[:, 0] == 0] == 0).all()


def test_a_plain_models_contributions_add_up_to_its_logits() -> None:
    subject = Subject(TinyNet().eval(), "plain", preprocessing=PREPROCESSING)
    images = torch.randn(5, 3, 64, 64)
    look, network = subject.look(images), subject.network
    logits = network(images)
    assert isinstance(network, TinyNet) and torch.allclose(look.output.logits, logits)
    bias = network.fc.bias[logits.argmax(1)]
    assert torch.allclose(look.heatmap.sum((1, 2)) + bias, logits.amax(1), atol=1e-5)
    assert look.merged_mask is None and subject.stages == () and subject.variant == "TinyNet"


def test_wrapped_models_are_found() -> None:
    aim = AIM(TinyNet(), [3], mask_width=8)
    aim.preprocessing, aim.class_names = PREPROCESSING, tuple("abcdefg")
    subject = Subject(torch.nn.DataParallel(aim), "model", "named")
    assert subject.aim is aim and subject.name == "named" and subject.class_names == tuple("abcdefg")
    assert subject.preprocessing == PREPROCESSING
