"""Reports about arguments that ended in torch's own words, or were taken in silence, and about sharing a model."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from zoo import TinyNet

from aimwrap import AIM, AIMLoss, SecondLook, TauScheduler, active_area, explain


def aim(**arguments: object) -> AIM:
    return AIM(TinyNet(), mask_width=8, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aim(num_classes=2.5), "num_classes must be a whole number, got 2.5"),
        (lambda: aim(num_classes="3"), "num_classes must be a positive number, got '3'"),
        (lambda: AIM(TinyNet(), mask_width=8.5), "mask_width must be a whole number, got 8.5"),
        (lambda: aim(temperature=None), "temperature must be a positive number, got None"),
        (lambda: TauScheduler(AIMLoss(0.25), anneal_epochs="3"), "anneal_epochs must be a whole number, got '3'"),
        (lambda: TauScheduler(AIMLoss(0.25), anneal_epochs=2.5), "anneal_epochs must be a whole number, got 2.5"),
        (lambda: aim(stages={2, 3}), r"stages must be a list.*write stages=\[2, 3\]"),
        (lambda: aim(stages=None), r"stages must be a list.*write stages=\[2, 3\]"),
        (lambda: aim(stages=np.array([2.0, 3.0])), r"stages must be numbers or node names, got 2.0"),
        (lambda: aim()(torch.zeros(2, 3, 64, 64), {2: 1.0, 3: 1.0}), "masks must be a dict with a tensor for each"),
        (lambda: aim()(torch.zeros(2, 3, 64, 64), [torch.ones(1)]), "masks must be a dict with a tensor for each"),
        (lambda: aim().load_state_dict(None), "state_dict to be dict-like, got"),
        (lambda: aim().load_state_dict({}), "it has no stages, this model"),
        (lambda: active_area({2: torch.ones(1, 1, 2, 2)}), "active_area takes the mask of one stage"),
        (lambda: aim().save_pretrained(None), "save_directory must be a folder"),
        (lambda: aim().save_pretrained(Path(__file__)), "save_directory must be a folder"),
        (lambda: AIM(aim()), "backbone is an AIM, or has one in it"),
        (lambda: AIM(nn.Sequential(nn.Identity(), aim())), "backbone is an AIM, or has one in it"),
    ],
)
def test_the_message_says_what_is_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        call()


@pytest.mark.parametrize("kind", [torch.tensor, np.array, tuple])
def test_stages_may_be_an_array(kind: Callable[[list[int]], object]) -> None:
    """Was told to "write stages=[tensor([2, 3])]"."""
    assert aim(stages=kind([2, 3])).stages == (2, 3)


def test_images_that_do_not_fit_the_weights() -> None:
    """Half, bfloat16, sparse and meta images on a float model ended in torch's own words."""
    model, images = aim().eval(), torch.zeros(2, 3, 64, 64)
    for wrong in (images.half(), images.bfloat16(), images.double()):
        with pytest.raises(
            TypeError, match=rf"got {str(wrong.dtype)[6:]} for a torch.float32 model; call images.float\(\)"
        ):
            model(wrong)
    for wrong in (images.to_sparse(), images.to("meta")):
        with pytest.raises(TypeError, match="with a value for each pixel"):
            model(wrong)
    with pytest.raises(TypeError, match=r"call images.to\(torch.bfloat16\)"):
        aim().bfloat16()(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(images.bfloat16()).logits.isfinite().all()


def test_a_model_made_under_inference_mode_can_be_trained() -> None:
    """Its new parameters could not be saved for backward."""
    network = TinyNet()
    with torch.inference_mode():
        model = AIM(network, mask_width=8)
        late = TinyNet()
    model(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert model.classifier.weight.grad is not None
    with pytest.raises(ValueError, match=r"made under torch.inference_mode\(\)"):
        AIM(late)


def test_explaining_in_threads_moves_no_statistics() -> None:
    """A model in training mode was switched back under other threads' feet, and its BatchNorms counted batches."""
    model, images = aim().train(), torch.randn(2, 3, 64, 64)
    second = SecondLook(model).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    expected = explain(model, images).logits
    model.backbone.get_submodule("block1.0").register_forward_pre_hook(lambda *_: time.sleep(0.003))
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(3):
            given = second(images).first.logits if number % 2 else explain(model, images).logits
            if not torch.equal(given, expected):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(module.training for module in model.modules())
