"""What the commit before issue 19 wrote loads, resumes and reads with today's code: see make.py for who made the files.

Bit for bit on the kind of machine and the version of torch that made them; elsewhere within rounding.
"""

import hashlib
import json
import platform
import shutil
from pathlib import Path

import pytest
import torch
from kept_nets import RUN, WEIGHTS, digest_of, images, kept, trained_at_96
from safetensors.torch import load_file

from aimwrap import AIM, SecondLook

HERE = Path(__file__).parent
MADE_BY = json.loads((HERE / "machine.json").read_text())
SAME_MACHINE = (torch.__version__, torch.backends.cpu.get_cpu_capability(), platform.machine()) == (
    MADE_BY["torch"],
    MADE_BY["cpu"],
    MADE_BY["machine"],
)


def assert_as_recorded(found: dict[str, torch.Tensor], path: Path) -> None:
    recorded = load_file(path)
    assert found.keys() == recorded.keys()
    for name, value in recorded.items():
        close = {"rtol": 0, "atol": 0} if SAME_MACHINE else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(found[name], value, **close)


@pytest.mark.parametrize("folder", ["model", "model-paper"])
def test_saved_models_load(folder: str) -> None:
    model = AIM.from_pretrained(HERE / folder)
    stored = load_file(HERE / folder / WEIGHTS)
    assert model.state_dict().keys() == stored.keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in stored.items())
    assert (model.tau, model.class_names, model.stages) == ((0.25, 0.5), tuple("abcde"), (2, 3))
    with torch.no_grad():
        output = model(images())
    masks = {f"mask {stage}": mask for stage, mask in output.masks.items()}
    assert_as_recorded({"logits": output.logits, **masks}, HERE / folder / "recorded.safetensors")


@pytest.mark.parametrize("folder", ["model", "model-paper"])
def test_masks_of_several_positions_and_their_training(folder: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as they were recorded: sums depend on how they are split
    try:
        found = trained_at_96(AIM.from_pretrained(HERE / folder))
    finally:
        torch.set_num_threads(threads)
    assert found["mask logits 3"].shape == (4, 1, 3, 3)
    assert found["gradient of stage_3.blocks.0.conv1.weight"].abs().max() > 0
    assert_as_recorded(found, HERE / folder / "recorded-96.safetensors")


def test_a_second_looks_parts_load() -> None:
    second = SecondLook(AIM.from_pretrained(HERE / "model"))
    second.classifier.load_state_dict(torch.load(HERE / "model" / "second-look.pt"))
    with torch.no_grad():
        output = second.eval()(images())
    found = {"logits": output.logits, "first": output.first.logits, "kept": output.kept}
    assert_as_recorded(found, HERE / "model" / "recorded-second.safetensors")


def test_a_built_set_is_read() -> None:
    recorded = json.loads((HERE / "set" / "recorded.json").read_text())
    assert {split: digest_of(HERE / "set", split) for split in recorded} == recorded


def test_a_plain_classifier_loads() -> None:
    load_plain = pytest.importorskip("aimwrap.train").load_plain
    with torch.no_grad():
        logits = load_plain(HERE / "plain", backbone=kept())(images(side=32)).logits
    assert_as_recorded({"logits": logits}, HERE / "plain" / "recorded.safetensors")


@pytest.mark.skipif(torch.__version__ < "2.7", reason="the run was recorded by torch 2.14, and 2.6 ends elsewhere")
def test_a_killed_run_is_resumed_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.fabric import Fabric

    from aimwrap.train import Settings, run_training

    for name in ("run", "set"):
        shutil.copytree(HERE / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    run_training(Settings(**RUN), tmp_path / "run", fabric, workers=0)
    expected = json.loads((HERE / "run.json").read_text())
    weights = tmp_path / "run" / "model" / WEIGHTS
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    result = {name: result[name] for name in expected["result"]}  # newer versions add to it; the folder is another
    for line in (result, expected["result"], *log, *expected["log"]):
        line["mask_findings"] = len(line["mask_findings"])  # their words may change
    sums = {name: value.double().sum().item() for name, value in load_file(weights).items()}
    if SAME_MACHINE:
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == expected["sha256"]
        assert (result, log) == (expected["result"], expected["log"])
    else:
        assert sums == pytest.approx(expected["sums"], rel=1e-2, abs=1e-2)
