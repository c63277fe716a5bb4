"""torchvision's classification models, stage by stage, written by hand from their sources; and what timm's needs.

Each stage is the module whose output is the last map at stride 4, 8, 16 and 32. Fully convolutional nets of the first
years have no stages that their authors drew; there it is the last activation before the next pool.
"""

from __future__ import annotations

import re

FOUR = [
    (r"(wide_)?res(net|next).*", ["layer1", "layer2", "layer3", "layer4"]),
    (r"convnext_.*", ["features.1", "features.3", "features.5", "features.7"]),
    (r"efficientnet_b\d", ["features.2", "features.3", "features.5", "features.7"]),
    (r"efficientnet_v2_s", ["features.2", "features.3", "features.5", "features.6"]),
    (r"efficientnet_v2_[ml]", ["features.2", "features.3", "features.5", "features.7"]),
    (r"mobilenet_v2", ["features.3", "features.6", "features.13", "features.17"]),
    (r"mobilenet_v3_large", ["features.3", "features.6", "features.12", "features.15"]),
    (r"mobilenet_v3_small", ["features.1", "features.3", "features.8", "features.11"]),
    (r"mnasnet.*", ["layers.8", "layers.9", "layers.11", "layers.13"]),
    (
        r"densenet.*",
        ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features.norm5 + relu"],
    ),
    (r"regnet_.*", [f"trunk_output.block{number}" for number in (1, 2, 3, 4)]),
    (r"shufflenet_.*", ["maxpool", "stage2", "stage3", "stage4"]),
    (r"maxvit_t", [f"blocks.{number}" for number in range(4)]),
    (r"googlenet", ["conv3", "inception3b", "inception4e", "inception5b"]),
    (r"inception_v3", ["Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"]),
    (r"alexnet", ["features.1", "features.4", "features.11", "features.12"]),
    # The last one after the norm and the permutation to (N, C, H, W), which is what is pooled.
    (r"swin_.*", ["features.1", "features.3", "features.5", "permute"]),
    (r"squeezenet1_0", ["features.5", "features.10", "features.12"]),  # its deepest stride is 16
    (r"squeezenet1_1", ["features.4", "features.7", "features.12"]),
    (r"vgg11", [f"features.{number}" for number in (9, 14, 19, 20)]),
    (r"vgg13", [f"features.{number}" for number in (13, 18, 23, 24)]),
    (r"vgg16", [f"features.{number}" for number in (15, 22, 29, 30)]),
    (r"vgg19", [f"features.{number}" for number in (17, 26, 35, 36)]),
    (r"vgg11_bn", [f"features.{number}" for number in (13, 20, 27, 28)]),
    (r"vgg13_bn", [f"features.{number}" for number in (19, 26, 33, 34)]),
    (r"vgg16_bn", [f"features.{number}" for number in (22, 32, 42, 43)]),
    (r"vgg19_bn", [f"features.{number}" for number in (25, 38, 51, 52)]),
]


# Where timm's own taps are not the last maps of their resolution, looked at one by one: (models, stages, why).
INSIDE = "timm taps inside the block that halves, before its shortcut is added"
BY_HAND = [
    (r"inception_v4", "0", "timm taps features.3, 73 x 73 at 299 px; features.4, 71 x 71, is the last at stride 4"),
    (r"(legacy_)?xception\d*p?", "0123", INSIDE),
    # Norms that are several operations with the map in each, which a fingerprint cannot separate from a branch.
    (r"resnetv2_50d_(evos|frn)", "3", "ours behind a norm"),
    (r"regnetz_\w+_evos", "3", "timm's behind a head expansion and its norm"),
    (r"mobilenetv3_large_150d", "3", "timm's behind a head expansion of two layers"),
    (r"(rep)?ghostnet.*", "0123", "timm taps the first blocks of a resolution; more blocks follow at the same"),
]


def by_hand(name: str) -> dict[str, str]:
    """By stage, how timm's taps of a model differ by their own choice."""
    return {s: why for pattern, stages, why in BY_HAND if re.fullmatch(pattern, name) for s in stages}


def expected_nodes(name: str) -> list[str]:
    """The nodes of a model's stages; empty for ViTs, which have one resolution and no stages."""
    for pattern, nodes in FOUR:
        if re.fullmatch(pattern, name):
            return nodes
    return []
