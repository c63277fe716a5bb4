"""A small model of every hierarchical family of timm does a real training step and a forward in evaluation.

Families are timm's modules; a family is hierarchical when its record names several resolutions. All of timm is judged
stage by stage in benchmarks/coverage; here models run, on values.
"""

import re

import pytest
import timm
import torch

from aimwrap import AIM, AIMLoss
from aimwrap.taps import find_stages, probe

FAMILIES = {
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "coat": "coat_tiny",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
}
REFUSED = {"crossvit": "works on tokens"}  # by number: two branches of tokens, and no stages
BY_DEFAULT = {"convnext", "efficientnet", "byobnet"}  # what timm has in miniature
EACH = [f if f in BY_DEFAULT else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
EVERY_OTHER = [pytest.param(f, marks=pytest.mark.rare) if i % 2 else f for i, f in enumerate(FAMILIES)]


def skip_where_unknown(family: str) -> None:
    if not timm.is_model(FAMILIES[family]):
        pytest.skip(f"timm {timm.__version__} has no {FAMILIES[family]} yet")


def train_a_step_and_evaluate(model: AIM, images: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(model.train().parameters(), 0.01)
    before = [p.detach().clone() for p in model.classifier.parameters()]
    AIMLoss(model.tau)(model(images), torch.tensor([0, 4])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    optimizer.step()
    assert not all(torch.equal(a, b) for a, b in zip(before, model.classifier.parameters(), strict=True))
    with torch.no_grad():
        output = model.eval()(images)
    assert output.logits.shape == (2, 5)
    assert [mask.shape[-2:] for mask in output.masks.values()] == [tap.size for tap in model.taps]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what some of timm's models warn about, building or running
@pytest.mark.parametrize("family", EVERY_OTHER)
def test_a_training_step_and_a_forward(family: str) -> None:
    skip_where_unknown(family)
    backbone = timm.create_model(FAMILIES[family], num_classes=5)
    measured = probe(backbone)
    if family not in REFUSED:
        model = AIM(backbone, sorted(find_stages(backbone, measured).nodes)[-2:], mask_width=8)
    else:
        with pytest.raises(ValueError, match=REFUSED[family]) as refusal:
            AIM(backbone)
        names = re.search(r"stages=\[(.*)\]", str(refusal.value)).group(1).replace("'", "").split(", ")
        model = AIM(backbone, names, head="paper", mask_width=8)  # as the message says
    train_a_step_and_evaluate(model, torch.randn(2, *measured.image_shape[1:]))


@pytest.mark.parametrize("family", REFUSED)
def test_families_without_stages_are_refused(family: str) -> None:
    skip_where_unknown(family)
    backbone = timm.create_model(FAMILIES[family], num_classes=5)
    with pytest.raises(ValueError, match=REFUSED[family]):
        AIM(backbone)
