"""A model whose weights FSDP2 has spread over processes can be looked at, and is not saved by mistake."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torchvision
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from aimwrap import AIM


@pytest.fixture
def sharded() -> Iterator[AIM]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    model = AIM(torchvision.models.resnet18(num_classes=2), stages=[2, 3])
    fully_shard(model.backbone, mesh=mesh)
    fully_shard(model, mesh=mesh)
    yield model
    dist.destroy_process_group()


def test_it_can_be_looked_at(sharded: AIM) -> None:
    assert "resnet" in repr(sharded).lower() and "cost unknown" in repr(sharded)


@pytest.mark.skipif(torch.__version__ < "2.7", reason="fully_shard of torch 2.6 needs a GPU")
def test_it_is_saved_from_what_was_gathered(sharded: AIM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is spread over processes .*get_model_state_dict"):
        sharded.save_pretrained(tmp_path / "aim")
    assert not (tmp_path / "aim").exists()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole = AIM("torchvision/resnet18", stages=[2, 3], backbone_kwargs={"num_classes": 2})
    whole.load_state_dict(get_model_state_dict(sharded, options=options))
    whole.save_pretrained(tmp_path / "aim")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = sharded.eval()(images).logits
        assert torch.equal(AIM.from_pretrained(tmp_path / "aim")(images).logits, logits)
