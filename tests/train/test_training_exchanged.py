"""``aimwrap train --exchange``: a classifier trained on exchanged backgrounds, saved as a model that looks once."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_nets
import torch
from lightning.fabric import Fabric
from test_resuming import KilledError
from test_train_cli import train as command
from test_training_second_looks import features_of
from torch import Tensor

from aimwrap import AIM, exchange_backgrounds, explain
from aimwrap.train import RunFolderError, Settings, run_training, second_look
from aimwrap.train.run import Run

PASTED = {"backbone": "tiny_nets:tiny", "exchange": True, "exchange_lr": 0.05, "epochs": 1, "head_lr": 0.01}


def test_from_a_table_to_a_model_that_looks_once(table: Path, tmp_path: Path) -> None:
    options = "--exchange --exchange-epochs 3 --exchange-copies 2 --exchange-lr 0.05 --second-look --second-epochs 2"
    found = command(table, tmp_path / "out", *options.split(), "--backbone", "tiny_nets:tiny")
    assert found.exit_code == 0, found.output
    rows, folder = found.stdout.strip().splitlines(), tmp_path / "out" / "seed-0"
    heads = [row for row in rows if row.split() == ["first", "look", "exchanged", "second", "look"]]
    assert len(heads) == 1 and any(row.startswith("exchanged classifier, epoch 3: train loss") for row in rows)
    result = json.loads((folder / "result.json").read_text())
    said, summed = result["exchange"], json.loads((folder.parent / "summary.json").read_text())
    assert said["folder"] == str(folder / "exchanged") and said["scores"].keys() == result["scores"].keys()
    assert summed["exchange"]["epochs"] == [said["epoch"]] and said["scores"]["area"] == result["scores"]["area"]
    first, exchanged = (
        AIM.from_pretrained(folder / name, backbone=tiny_nets.tiny()) for name in ("model", "exchanged")
    )
    other = [name for name, value in first.state_dict().items() if not value.equal(exchanged.state_dict()[name])]
    assert other == ["classifier.weight", "classifier.bias"]
    images = torch.randn(2, 3, 32, 32)
    logits = explain(exchanged, images).contributions.sum((2, 3)) + exchanged.classifier.bias
    torch.testing.assert_close(logits, exchanged(images).logits)


def features_trained_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """Of the training split, all copies, and of the validation split."""
    found: list[Tensor] = []

    def train_on(run: Run, part: str, classifier: Any, *features: Tensor) -> tuple[int, dict[str, Tensor]]:
        found.extend(features)
        return 1, classifier.state_dict()

    with monkeypatch.context() as patch:
        patch.setattr(second_look, "_train", train_on)
        second_look.train_exchanged(run)
    return found[0], found[1]


def test_every_version_is_of_its_own_image_in_its_own_row(
    settings_of: Callable[..., Settings], fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an exchange that leaves images as they are; its masks are the model's, and its draws all differ."""
    run = Run(settings_of(**PASTED, exchange_copies=3), Path("unused"), fabric)
    model, seen = run.evaluated.eval(), []
    assert isinstance(model, AIM)

    def left(images: Tensor, masks: Tensor, *, generator: torch.Generator) -> Tensor:
        expected = model.forward_masks(model.forward_backbone(images)).merged_mask
        assert torch.equal(masks, expected) and len(images) >= 2
        seen.append(int(torch.randint(2**31, (1,), generator=generator)))
        return images

    monkeypatch.setattr(second_look, "exchange_backgrounds", left)
    versions, val = features_trained_on(run, monkeypatch)
    assert versions.shape == (22, 4 * 12) and len(val) == 9 and len(set(seen)) == 6 * 3
    images = torch.stack([sample.image for sample in second_look._not_augmented(run)])
    inputs = second_look._inputs(model, images)[0]
    torch.testing.assert_close(versions, inputs.repeat(1, 4).detach())
    torch.testing.assert_close(model.classifier(inputs), model(images).logits)


def test_copies_are_drawn_by_the_seed_alone(
    settings_of: Callable[..., Settings], fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(settings_of(**PASTED), Path("unused"), fabric)
    ungrown = partial(exchange_backgrounds, margin=0)  # these masks have four positions
    monkeypatch.setattr(second_look, "exchange_backgrounds", ungrown)
    first = features_trained_on(run, monkeypatch)[0]
    torch.manual_seed(7)
    assert torch.equal(features_trained_on(run, monkeypatch)[0], first)
    assert first.view(22, -1, 12).std(1).amax() > 0, "all copies are the same"
    object.__setattr__(run.settings, "seed", 1)
    assert not torch.equal(features_trained_on(run, monkeypatch)[0], first)


def test_uneven_batches_are_the_same_in_any_number_of_processes(
    settings_of: Callable[..., Settings], fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(settings_of(**PASTED), Path("unused"), fabric)
    batches = [[20, 3, 5], [1, 0], [2, 21], [4, 19]]
    of_two = torch.utils.data.Subset(second_look._not_augmented(run), range(22))
    of_two.split = "train"  # type: ignore[attr-defined]
    for processes in (1, 2, 3, 7):
        found = features_of(run, None, of_two, processes, monkeypatch, batches)  # type: ignore[arg-type]
        for number, batch in enumerate(batches):
            means = torch.stack([of_two[image].image.mean((1, 2)) for image in batch])
            torch.testing.assert_close(found[batch], means + number)


def test_stopped_and_resumed_it_is_the_unstopped_one(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(**PASTED)
    whole = run_training(settings, tmp_path / "whole", fabric, workers=0)

    def killing(*arguments: object, **more: object) -> None:
        raise KilledError

    for place in ("loop.train_exchanged", "second_look._validated", "loop.write_json"):
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(f"aimwrap.train.{place}", killing)
            run_training(settings, tmp_path / "stopped", fabric, workers=0)
        torch.manual_seed(len(place))
    stopped = run_training(settings, tmp_path / "stopped", fabric, workers=0)
    assert whole.exchange is not None and stopped.exchange is not None
    assert whole.exchange["scores"] == stopped.exchange["scores"]
    weights = [(tmp_path / name / "exchanged" / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
    path = tmp_path / "whole" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "exchange": None}))
    with pytest.raises(RunFolderError, match="its exchange does not fit the settings"):
        run_training(settings, tmp_path / "whole", fabric, workers=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--exchange-lr", 0.1), "--exchange-lr has no effect without --exchange; add it, or leave --exchange-lr out"),
        (("--exchange", "--plain"), "--exchange needs AIM, whose masks say what is pasted"),
        (("--exchange", "--exchange-copies", 0), "--exchange-copies must be 1 or more"),
    ],
)
def test_options_without_effect_are_refused(
    table: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    found = command(table, tmp_path / "out", *options)
    assert found.exit_code == 2 and message in " ".join(found.stderr.replace("│", " ").split()), found.output
    assert not (tmp_path / "out").exists()
