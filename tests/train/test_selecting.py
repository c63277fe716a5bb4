"""What a run keeps: the epoch that its rule selects, the moving average, and no more files than it needs."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_nets
import torch
from lightning.fabric import Fabric
from test_resuming import KilledError, stop_at

from aimwrap import AIM, MaskHealth
from aimwrap.train import CheckpointError, Settings, checkpoints, load_plain, loop, run_training
from aimwrap.train.checkpoints import checkpoint_folder, checkpoints_in, read_checkpoint
from aimwrap.train.evaluation import evaluate
from aimwrap.train.report import format_epoch, format_results
from aimwrap.train.run import Run

STEADY = {"method": "plain", "backbone": "tiny_nets:tiny", "schedule": "constant", "optimizer": "sgd", "lr": 0.01}


def scored(monkeypatch: pytest.MonkeyPatch, averages: list[float | None]) -> None:
    """Each epoch's validation gives the next of these, whatever the model says; the test at the end gives 0."""
    evaluate, left = loop.evaluate, iter(averages)

    def scripted(*arguments: Any, **more: Any) -> dict[str, Any]:
        return {**evaluate(*arguments, **more), "average": next(left, 0.0)}

    monkeypatch.setattr(loop, "evaluate", scripted)


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return load_plain(folder / "model", backbone=tiny_nets.tiny()).backbone.state_dict()


def newest(folder: Path) -> dict[str, torch.Tensor]:
    """The weights after the last step, under the backbone's own names."""
    found = read_checkpoint(checkpoints_in(checkpoint_folder(folder))[-1]).part("model")
    return {name.removeprefix("backbone."): tensor for name, tensor in found.items()}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("averages", "best"),
    [((0.5, 0.9, 0.9, 0.7), 3), ((0.9, 0.5, None, 0.8), 1), ((None, 0.1, 0.2, 0.3), 4)],
    ids=["last of equals", "none is no score", "last"],
)
def test_the_best_epoch_s_weights_are_kept(
    settings_of: Callable[..., Settings],
    fabric: Fabric,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    averages: tuple[float | None, ...],
    best: int,
) -> None:
    """Also if the run is killed after it and continued."""
    run_training(settings_of(**STEADY, epochs=best, selection="last"), tmp_path / "until", fabric, workers=0)
    settings = settings_of(**STEADY, epochs=4)
    with monkeypatch.context() as patch:
        scored(patch, list(averages[:3]))
        with pytest.raises(KilledError):
            run_training(settings, tmp_path / "run", fabric, workers=0, report=_killing_behind(3))
    with monkeypatch.context() as patch:
        scored(patch, list(averages[3:]))
        result = run_training(settings, tmp_path / "run", fabric, workers=0)
    assert (result.epoch, result.selection) == (best, "validation average")
    assert result.validation is not None and result.validation["average"] == averages[best - 1]
    assert are_equal(saved(tmp_path / "run"), newest(tmp_path / "until"))
    assert are_equal(saved(tmp_path / "run"), newest(tmp_path / "run")) == (best == 4)


def test_what_needs_no_groups_is_measured_as_by_hand(settings_of: Callable[..., Settings], fabric: Fabric) -> None:
    """Image by image: the masks' pixels stay and the others become the mean colour; a class has all its places."""
    run = Run(settings_of(backbone="tiny_nets:tiny"), Path("unused"), fabric)
    model, images = run.evaluated, run.splits.val
    assert isinstance(model, AIM) and images is not None
    right: dict[int, list[bool]] = {0: [], 1: []}
    same = []
    model.eval()
    with torch.no_grad():
        logits = model(torch.stack([images[number].image for number in range(len(images))])).logits
        middle = (logits[:, 1] - logits[:, 0]).sort().values[len(logits) // 2 :][:2]
        model.classifier.bias[0] += middle.mean()  # about half of the images for each class, and none in between
        for number in range(len(images)):
            sample = images[number]
            pixels = sample.image[None]
            merged = model.forward_masks(model.forward_backbone(pixels)).merged_mask
            kept = merged.repeat_interleave(32 // merged.shape[2], 2).repeat_interleave(32 // merged.shape[3], 3)
            there = pixels * kept + pixels.mean((2, 3), keepdim=True) * (1 - kept)
            here, again = (int(model(x).logits.argmax()) for x in (pixels, there))
            same.append(here == again)
            right[sample.label].append(here == sample.label)
    rules = ("validation survival", "validation worst class", "validation average")
    survival, by_class, plain = (
        evaluate(model, images, run.batches_of(images), run.splits, fabric, rule=rule) for rule in rules
    )
    assert 0 < sum(same) < len(same) and survival["survival"] == pytest.approx(sum(same) / len(same))
    assert by_class["worst_class"] == pytest.approx(min(sum(hits) / len(hits) for hits in right.values()))
    assert by_class["worst_class"] not in (0, by_class["worst_group"])
    shared = {name: value for name, value in survival.items() if name != "survival"}
    assert plain == shared == {name: value for name, value in by_class.items() if name != "worst_class"}


def test_a_run_is_selected_by_survival(settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path) -> None:
    settings = settings_of(backbone="tiny_nets:tiny", epochs=4, anneal_share=0.25, selection="validation survival")
    lines: list[dict[str, Any]] = []
    result = run_training(settings, tmp_path, fabric, workers=0, report=lambda line, seconds: lines.append(line))
    found = [line["validation"]["survival"] for line in lines]
    best = max(range(1, 4), key=lambda epoch: (found[epoch], epoch)) + 1
    assert (result.epoch, result.selection) == (best, "validation survival") and "survival" not in result.scores
    assert f"survival {found[0]:.3f}" in format_epoch(lines[0], 1.0)
    assert "needs neither labels nor groups" in format_results([result])


def _killing_behind(epoch: int) -> Callable[[dict[str, Any], float], None]:
    def report(line: dict[str, Any], seconds: float) -> None:
        if line["epoch"] == epoch:
            raise KilledError

    return report


def test_old_best_weights_are_removed(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [0.1, 0.2, 0.3, 0.4])
    run_training(settings_of(**STEADY, epochs=4), tmp_path, fabric, workers=0)
    kept = sorted(path.name for path in checkpoint_folder(tmp_path).glob("best-*"))
    assert kept == ["best-epoch-0003.safetensors", "best-epoch-0004.safetensors"]


def test_best_weights_that_cannot_be_written_end_the_run(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file = checkpoints.save_file

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        if len(list(Path(path).parent.glob("best-*"))) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, metadata=metadata)

    settings = settings_of(**STEADY)
    with monkeypatch.context() as patch:
        scored(patch, [0.1])
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(CheckpointError, match=r"step-000000006.*could not be written: the disk is full"):
            run_training(settings, tmp_path, fabric, workers=0)
    with monkeypatch.context() as patch:
        scored(patch, [0.1, 0.2])
        patch.setattr(checkpoints, "save_file", _only_once_full(save_file))
        with pytest.raises(CheckpointError, match=r"best-epoch-0001.*could not be written: the disk is full"):
            run_training(settings, tmp_path / "other", fabric, workers=0)
    assert not checkpoints_in(checkpoint_folder(tmp_path / "other"))


def _only_once_full(save_file: Callable[..., None]) -> Callable[..., None]:
    calls: list[Path] = []

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, metadata=metadata)

    return full


def test_the_moving_average_is_that_of_the_steps(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is what is scored and saved."""
    expected: dict[str, torch.Tensor] = {}
    save_checkpoint = loop.save_checkpoint

    def watching(run: Any) -> None:
        if run.progress.step_of_epoch:  # and not at the epoch's end, where it was seen already
            for name, parameter in run.network.backbone.named_parameters():
                before = expected.get(name)
                now = parameter.detach().clone()
                expected[name] = now if before is None else 0.75 * before + 0.25 * now
        save_checkpoint(run)

    monkeypatch.setattr(loop, "save_checkpoint", watching)
    monkeypatch.setattr(loop, "_checkpoint_is_due", lambda run: True)
    run_training(settings_of(**STEADY, ema=0.75, epochs=1, selection="last"), tmp_path, fabric, workers=0)
    found = saved(tmp_path)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    assert not are_equal(found, newest(tmp_path))


def test_clipped_steps_are_no_longer_than_asked_for(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    update = torch.optim.SGD.step

    def watching(self: torch.optim.SGD, closure: Any = None) -> Any:
        grads = [p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat(grads).norm().item())
        return update(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", watching)
    for clip, folder in ((None, "free"), (1e-3, "clipped")):
        run_training(settings_of(**STEADY, epochs=1, clip=clip), tmp_path / folder, fabric, workers=0)
    assert len(norms) == 12 and min(norms[:6]) > 2e-3
    assert norms[6:] == pytest.approx([1e-3] * 6, rel=1e-3)


@pytest.mark.slow
def test_masks_are_looked_at_in_training_and_in_validation_and_a_killed_run_remembers(
    settings_of: Callable[..., Settings], fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each report is of an epoch's 22 training and 9 validation images."""
    seen: list[list[float]] = []
    report = MaskHealth.report

    def watching(self: MaskHealth) -> Any:
        state = self.state_dict()
        seen.append([state[f"{mode}/2/images"].item() for mode in ("training", "evaluation")])
        return report(self)

    monkeypatch.setattr(MaskHealth, "report", watching)
    settings = settings_of(backbone="tiny_nets:tiny", epochs=1, checkpoint_steps=1)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        stop_at(4, patch)
        run_training(settings, tmp_path, fabric, workers=0)
    run_training(settings, tmp_path, fabric, workers=0)
    assert seen == [[22, 9]]
