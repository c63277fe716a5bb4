"""Nothing stays on a model between calls, whatever happened in them, and threads may share one."""

import copy
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import every_head, with_heads_in_turn

from aimwrap import AIM, AIMLoss, area_curve, explain, verify
from aimwrap.analysis.readout import evaluating
from aimwrap.attribution import LogitsView

Wrapped = Callable[..., AIM]
TAPPED = ["tiny", "branching", "twins"]  # by a graph, by hooks, by the model's own intermediates
STATM = Path("/proc/self/statm")

every_way_of_tapping = pytest.mark.parametrize("name", TAPPED)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed is freed by reference counts: a cycle would keep a batch's memory until the collector comes."""
    gc.disable()
    yield
    gc.enable()


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in what a call returned, a MaskedFeatures' cached maps included."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in tensors_in(part)]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in tensors_in(part)]
    return tensors_in({k: v for k, v in vars(value).items() if k != "top_down"}) if hasattr(value, "masked") else []


def features_of(model: AIM, images: Tensor) -> tuple[Any, ...]:
    maps = model.forward_backbone(images)
    features = model.forward_masks(maps)
    return maps, features, features.masked, features.fused, features.merged_mask, model.forward_head(features)


def train_step(model: AIM, images: Tensor) -> tuple[Any, ...]:
    model.train()
    output = model(images)
    loss = AIMLoss(tau=model.tau)(output, torch.zeros(len(images), dtype=torch.long))
    loss.backward()
    model.zero_grad()
    model.eval()
    return output, loss


def view_step(model: AIM, images: Tensor) -> Tensor:
    images.requires_grad_()
    logits = LogitsView(model)(images)
    logits.sum().backward()
    return logits


def curve_step(model: AIM, images: Tensor) -> None:
    area_curve(model, [(images, torch.zeros(len(images), dtype=torch.long))], areas=[0.1, 0.5])


CALLS: dict[str, Callable[[AIM, Tensor], Any]] = {
    "forward": lambda model, images: model(images),
    "features": features_of,
    "training": train_step,
    "predict": lambda model, images: model.predict(images),
    "predict an area": lambda model, images: model.predict(images, area=0.2),
    "explain": explain,
    "view": view_step,
    "area_curve": curve_step,
}


def state_of(model: AIM) -> dict[str, Any]:
    """Names of all that the modules hold, and how many hooks; values where they are plain ones."""
    seen: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            plain = isinstance(value, bool | int | float | str | tuple | type(None))
            seen[f"{name}.{key}"] = value if plain else len(value) if hasattr(value, "__len__") else type(value)
    return seen


# ---- Nothing stays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@every_head
@every_way_of_tapping
def test_nothing_outlives_a_call(name: str, head: str, call: str, wrapped: Wrapped, no_collector: None) -> None:
    """Images, maps, features, masks, graphs and outputs go with the names of their caller, and no module changes."""
    model = copy.deepcopy(wrapped(name, head))
    CALLS[call](model, torch.randn(2, 3, 64, 64))  # what a first call sets up
    before = state_of(model)
    images = torch.randn(2, 3, 64, 64)
    results = CALLS[call](model, images)
    alive = [weakref.ref(tensor) for tensor in (images, *tensors_in(results))]
    assert len(alive) > 3 or results is None or isinstance(results, Tensor)
    del images, results
    assert [ref for ref in alive if ref() is not None] == []
    assert state_of(model) == before


class FailsError(Exception):
    pass


@pytest.mark.parametrize("where", ["images", "early", "late", "estimator"])
@pytest.mark.parametrize("call", ["forward", "training", "predict", "explain", "view", "area_curve"])
@every_way_of_tapping
def test_nothing_outlives_a_call_that_fails(
    name: str, call: str, where: str, wrapped: Wrapped, no_collector: None
) -> None:
    model = copy.deepcopy(wrapped(name, "paper"))
    CALLS[call](model, torch.randn(2, 3, 64, 64))
    inner = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
    culprit = {"early": inner[1], "late": inner[-1], "estimator": model.mask_estimators["stage_3"].stem}.get(where)
    before = state_of(model)
    passed: list[weakref.ref[Tensor]] = []

    def fail(module: nn.Module, arguments: tuple[Tensor]) -> None:
        passed.extend(weakref.ref(tensor) for tensor in arguments)
        raise FailsError

    handle = culprit.register_forward_pre_hook(fail) if culprit is not None else None
    images = torch.randn(2, 3 if culprit is not None else 4, 64, 64)
    passed.append(weakref.ref(images))
    with suppress(FailsError, ValueError):
        CALLS[call](model, images)
        pytest.fail("it did not fail")
    del images
    if handle is not None:
        assert len(passed) == 2
        handle.remove()
    assert [ref for ref in passed if ref() is not None] == []
    model.eval()  # a training step that failed left it in training mode, as any model's
    assert state_of(model) == before


@every_way_of_tapping
def test_verify_leaves_nothing(name: str, wrapped: Wrapped, no_collector: None) -> None:
    model = copy.deepcopy(wrapped(name, "paper"))
    verify(model, torch.randn(3, 3, 64, 64), batch_size=2)
    before, images = state_of(model), torch.randn(3, 3, 64, 64)
    alive = weakref.ref(images)
    assert verify(model, images, batch_size=2).passed
    handle = model.mask_estimators["stage_3"].register_forward_hook(lambda *_: (_ for _ in ()).throw(FailsError()))
    with suppress(FailsError):
        verify(model, images)
    handle.remove()
    del images
    assert alive() is None
    assert state_of(model) == before


def memory() -> int:
    """Resident bytes."""
    return int(STATM.read_text().split()[1]) * 4096


def live_tensors() -> int:
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def assert_flat(model: AIM, rounds: int, side: int) -> None:
    """Memory after many calls is that after few."""

    def some_calls(count: int) -> None:
        for step in range(count):
            images = torch.randn(1, 3, side, side)
            for call in ("forward", "training", "predict", "explain"):
                CALLS[call](model, images)
            with suppress(ValueError):
                model(images[:, :2])
            del images
            if step % 50 == 0:
                gc.collect()
        gc.collect()

    some_calls(25)
    before, resident = live_tensors(), memory()
    some_calls(rounds)
    assert live_tensors() == before
    assert memory() - resident < 6_000_000  # one image a call would be 10 MB at the least


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="needs /proc")
@pytest.mark.parametrize("head", [pytest.param("paper", marks=pytest.mark.slow), "feature-preserving"])
def test_memory_is_flat_over_hundreds_of_calls(head: str, wrapped: Wrapped) -> None:
    assert_flat(copy.deepcopy(wrapped("tiny", head)), rounds=50, side=64)


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="needs /proc")
@pytest.mark.parametrize(("name", "head"), with_heads_in_turn(TAPPED))
def test_memory_is_flat_over_many_calls(name: str, head: str, wrapped: Wrapped) -> None:
    assert_flat(copy.deepcopy(wrapped(name, head)), rounds=500, side=64)


# ---- Threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def flat(result: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors_in(result)])


@pytest.mark.parametrize("call", ["forward", "predict", "explain"])
@every_way_of_tapping
def test_threads_may_share_a_model(name: str, call: str, wrapped: Wrapped, eager_switches: None) -> None:
    """Each gets what it would get alone, to the bit."""
    model, threads, rounds = wrapped(name, "feature-preserving"), 4, 8
    batches = [torch.randn(1, 3, 64, 64) for _ in range(threads)]
    expected = [flat(CALLS[call](model, images)) for images in batches]
    together = threading.Barrier(threads)

    def serve(index: int) -> bool:
        together.wait()
        got = [flat(CALLS[call](model, batches[index])) for _ in range(rounds)]
        return all(torch.equal(one, expected[index]) for one in got)

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(serve, range(threads)))


def test_a_model_in_evaluation_is_not_switched(wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread would see it, and its masks would be noisy, were it for a moment in training mode."""
    model = copy.deepcopy(wrapped("tiny"))
    writes: list[str] = []
    honest = nn.Module.__setattr__

    def note(module: nn.Module, key: str, value: object) -> None:
        writes.append(key)
        honest(module, key, value)

    monkeypatch.setattr(nn.Module, "__setattr__", note)
    with evaluating(model):
        pass
    explain(model, torch.randn(1, 3, 64, 64))
    model.predict(torch.randn(1, 3, 64, 64))
    assert writes == []
    model.classifier.train()
    with evaluating(model):
        assert not model.classifier.training
    assert model.classifier.training and not model.training and writes
