"""A step beyond the paper: classify the image again, from only the pixels that the masks keep, enlarged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree

from ._checks import check_images, check_masks, check_positive, check_second_look
from ._numerics import in_precision, wide_dtype
from .analysis.readout import evaluating, unwrap
from .backbones.create import create_backbone
from .backbones.records import preprocessing_of
from .base import AIMBase, Cost, Network, fresh_linear
from .exchange import exchange_backgrounds
from .model import AIM
from .output import AIMOutput, Prediction
from .preprocessing import Preprocessing, renormalised
from .sharing import Shareable
from .sharing.files import Config
from .sharing.rebuilding import Given, rebuild_second_look
from .sharing.recipe import Recipe, builder_of, parts_of
from .taps import FINAL, Stage, TappedBackbone, count_macs, tap_backbone


class SecondLookOutput(NamedTuple):
    """The results of both looks.

    Attributes:
        logits: the prediction, by the kept pixels alone, (N, K).
        kept: the pixels that the second look sees, exactly 0 or 1, (N, 1, H, W).
        boxes: the part of each image that is enlarged, (N, 4) as left, top, right, bottom in pixels.
        first: the first look, which chose them; None where masks were given.
    """

    logits: Tensor
    kept: Tensor
    boxes: Tensor
    first: AIMOutput | None


_pytree._register_namedtuple(SecondLookOutput, serialized_type_name="aimwrap.SecondLookOutput")  # as AIMOutput


class SecondLook(Shareable):
    """Let a trained AIM look again: its merged mask is cut out of the *image*, enlarged, and classified again.

    A mask of features does not hide pixels, since a feature sees more of the image than its cell. Here everything but
    the merged mask, grown by a margin, becomes ``fill`` before the same backbone, or another one, sees the image again.
    So, for given masks, no other pixel can move these logits by a bit; how the masks were made is up to the first look.

    The first look is always one in evaluation mode and without gradients. Only :attr:`classifier` is trained, by cross
    entropy, and since nothing before it moves, :meth:`features` of a data set can be cached.

    Args:
        model: a trained :class:`~aimwrap.AIM` with the feature-preserving head; shared, and left as it is.
        backbone: another network for the second look: a module, shared and left as it is, or a name, as for AIM. If its
            record and the first look's preprocessing are known and differ in mean or std, what it sees is converted.
            It is not trained, so give a name with ``backbone_kwargs={"pretrained": True}``, or load weights into it.
        margin: positions of the merged mask's grid by which it is grown on every side.
        least: no box is smaller than this share of the image's sides: 0.3 enlarges at most 1 / 0.3 times.
        fill: what the other pixels become in all channels, in the images' own units: 0 is the mean colour of normalised
            ones.
        size: the shorter side of what the second look sees, in pixels; smaller is cheaper and worse. None: the image's.
        backbone_kwargs: arguments of the builder where ``backbone`` is a name.

    Attributes:
        first: the AIM. Its ``num_classes``, ``in_channels``, ``class_names``, ``preprocessing`` are this model's too.
        backbone: the second look's own network, up to its final map; None where both looks share one.
        classifier: the second look's, one linear layer.

    Raises:
        TypeError: if the model is not an AIM, or the backbone is one.
        ValueError: if it has the paper's head, which keeps no final map, an argument is out of range, or the final map
            of the backbone cannot be found.

    Example:
        >>> import torchvision
        >>> from aimwrap import AIM
        >>> model = AIM(torchvision.models.resnet18(num_classes=10), stages=[2, 3])
        >>> second = SecondLook(model)
        >>> output = second(torch.randn(2, 3, 64, 64))
        >>> output.logits.shape, output.kept.shape, output.boxes.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 64, 64]), torch.Size([2, 4]))
        >>> optimizer = torch.optim.AdamW(second.classifier.parameters())
    """

    @torch.inference_mode(False)  # as AIM
    def __init__(
        self,
        model: nn.Module,
        backbone: nn.Module | str | None = None,
        *,
        margin: int = 1,
        least: float = 0.3,
        fill: float = 0.0,
        size: int | None = None,
        backbone_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        first = unwrap(model)
        if first.classified is None:
            raise ValueError(
                "model must have the feature-preserving head, whose backbone keeps its final map for the second look; "
                f'got the {first.head} head: AIM(backbone, head="feature-preserving")'
            )
        check_second_look(margin=margin, least=least, fill=fill, size=size)
        self.first = first
        self.margin, self.least, self.fill, self.size = int(margin), least, fill, None if size is None else int(size)
        self.backbone, self._network = _own_network(backbone, backbone_kwargs, first)
        classified = first.classified if self._network is None else self._network.classified
        if size is not None and size < classified.stride:
            raise ValueError(f"size must be at least {classified.stride}, a position of the final map, got {size}")
        self.classifier = fresh_linear(classified.channels, first.num_classes).to(first.classifier.weight)

    @property
    def num_classes(self) -> int:
        """K, the first look's."""
        return self.first.num_classes

    @property
    def in_channels(self) -> int:
        """C of the images, the first look's."""
        return self.first.in_channels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The first look's; assigned to it, too."""
        return self.first.class_names

    @class_names.setter
    def class_names(self, names: tuple[str, ...] | None) -> None:
        self.first.class_names = names

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The first look's; assigned to it, too."""
        return self.first.preprocessing

    @preprocessing.setter
    def preprocessing(self, images: Preprocessing | None) -> None:
        self.first.preprocessing = images

    def forward(self, images: Tensor, masks: Tensor | None = None) -> SecondLookOutput:
        """Look twice, or once at what given masks keep.

        Args:
            images: (N, C, H, W), as the model takes them.
            masks: zeros and ones or truth values, (N, 1, h, w) on any grid: the pixels to show, such as a segmenter's
                or a person's mask. The first look is left out then, and they are not grown by :attr:`margin`.

        Returns:
            The second look's logits, what it was shown, and the first look.

        Raises:
            TypeError: if the images are not floating, or the masks not a tensor.
            ValueError: if the images do not fit, or the masks are not of them or have other values.
        """
        if masks is None:
            closer, kept, boxes, first = self.look(images)
            return SecondLookOutput(self.classifier(closer.mean((2, 3))), kept, boxes, first)
        check_images(images, self.in_channels, self.first.classifier, least_side=1)
        kept = kept_pixels(check_masks(masks, images), images)
        boxes = boxes_around(kept, self.least)
        return SecondLookOutput(self.logits_of(images, kept, boxes), kept, boxes, None)

    @torch.no_grad()
    def predict(
        self, images: Tensor, area: float | Sequence[float] | None = None, *, unsure: float | None = None
    ) -> Prediction:
        """Classify images for serving: the second look's logits, and the masks of the first.

        Args:
            images: (N, C, H, W), as the model takes them.
            area: as in :meth:`aimwrap.AIM.predict`, of the first look's masks.
            unsure: look again only where the first look's class has a probability below this: the softmax's, so not
                for images of several classes. The other logits are the first look's, which sees all pixels.

        Returns:
            Logits and masks; without ``area`` and ``unsure`` those of :meth:`forward`.

        Raises:
            RuntimeError: if the model is in training mode.
            TypeError: as :meth:`aimwrap.AIM.predict`.
            ValueError: as there, or if ``unsure`` is not a probability.
        """
        logits, masks = self.first.predict(images, area)
        if unsure is None:
            return self._decided(images, masks)
        if isinstance(unsure, bool) or not 0 <= unsure <= 1:
            raise ValueError(
                f"unsure must be a probability, 0 to 1, or None to look twice at all images, got {unsure!r}"
            )
        of_two = F.pad(logits, (1, 0)) if self.num_classes == 1 else logits
        again = ~(of_two.to(wide_dtype(logits)).softmax(1).amax(1) >= unsure)  # what is not finite, too
        if again.any():
            of_these = {stage: mask[again] for stage, mask in masks.items()}
            logits[again] = self._decided(images[again], of_these).logits.to(logits)
        return Prediction(logits, masks)

    def _decided(self, images: Tensor, masks: dict[Stage, Tensor]) -> Prediction:
        """The second look at what the stages' masks keep."""
        merged = self.first.top_down.fuse(list(masks.values()), list(masks.values()))[1]
        return Prediction(self.logits_of(images, *self.region(merged, images)), masks)

    @torch.no_grad()
    def features(self, images: Tensor, copies: int = 0, *, generator: torch.Generator | None = None) -> Tensor:
        """The classifier's input. Nothing before it is trained, so it may be kept for all epochs.

        What the margin of a mask shows is mostly background. So train on copies, too, that show another one there: in
        each, what the mask keeps without its margin is pasted on another image of the batch, by
        :func:`~aimwrap.exchange_backgrounds`. Shuffle the images, so that a batch has several classes.

        Args:
            images: (N, C, H, W), as the model takes them; two at least, if there are copies.
            copies: of each image, for training alone.
            generator: of the draw, on the CPU; None takes torch's own.

        Returns:
            (N, D), or with copies (N, 1 + copies, D), of which the first is of the image as it is.
        """
        if not copies:
            return self.look(images)[0].mean((2, 3))
        check_positive(Integral, copies=copies)
        with evaluating(self.first):
            merged = self.first.forward_masks(self.first.forward_backbone(images)).merged_mask
        kept, boxes = self.region(merged, images)
        pasted = (exchange_backgrounds(images, merged, margin=0, generator=generator) for _ in range(copies))
        return torch.stack([self.closer(each, kept, boxes).mean((2, 3)) for each in (images, *pasted)], dim=1)

    def logits_of(self, images: Tensor, kept: Tensor, boxes: Tensor) -> Tensor:
        """The second look's logits for masks that are given: no other pixel can move them.

        Args:
            images: (N, C, H, W).
            kept: as in :class:`SecondLookOutput`.
            boxes: as there.

        Returns:
            (N, K).

        Raises:
            ValueError: if the masks or boxes are not of these images.
        """
        check_images(images, self.first.in_channels, self.first.classifier, least_side=1)
        _check_given(images, kept, boxes)
        logits: Tensor = self.classifier(self.closer(images, kept, boxes).mean((2, 3)))
        return logits

    @torch.no_grad()
    def look(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, AIMOutput]:
        """Everything before the classifier, of images (N, C, H, W).

        Returns:
            The backbone's final map of the enlarged pixels, (N, D, h, w), and ``kept``, ``boxes`` and ``first`` of
            :class:`SecondLookOutput`.
        """
        with evaluating(self.first):
            features = self.first.forward_masks(self.first.forward_backbone(images))
            kept, boxes = self.region(features.merged_mask, images)
            return self.closer(images, kept, boxes), kept, boxes, self.first.forward_head(features)

    def region(self, merged_mask: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """``kept`` and ``boxes`` of :class:`SecondLookOutput`, for a merged mask (N, 1, h, w)."""
        kept = kept_pixels(merged_mask, images, self.margin)
        return kept, boxes_around(kept, self.least)

    @torch.no_grad()
    def closer(self, images: Tensor, kept: Tensor, boxes: Tensor) -> Tensor:
        """The backbone's final map, (N, D, h, w), of the kept pixels in their boxes, enlarged; as :meth:`logits_of`."""
        with evaluating(self.first.backbone if self.backbone is None else self.backbone):
            return self.final_map(self.cut_out(images, kept, boxes))

    def cut_out(self, images: Tensor, kept: Tensor, boxes: Tensor) -> Tensor:
        """All that the second look sees, (N, C, H, W): kept pixels in their boxes, enlarged. As :meth:`logits_of`."""
        shown = torch.where(kept > 0, images, self.fill + 0 * kept.to(images))  # NaN stays NaN
        return enlarge(shown, boxes, self.size)

    def final_map(self, shown: Tensor) -> Tensor:
        """The second look's network, up to its final map (N, D, h, w), on what :meth:`cut_out` gives."""
        if self.backbone is None or self._network is None:
            return self.first.forward_backbone(shown)[FINAL]
        given, expected = self.preprocessing, self._network.preprocessing
        if given is not None and expected is not None:
            shown = renormalised(shown, given, expected)
        own = [*self.classifier.parameters(), shown][0].dtype
        return in_precision(self.backbone(shown), own, shown.dtype)[FINAL]

    def cost(self) -> Cost:
        """Count parameters and multiply-accumulates of both looks.

        Returns:
            As ``AIM.cost``; the second look's network and its pass count as what wrapping adds.
        """
        first, network = self.first.cost(), self.first.backbone if self.backbone is None else self.backbone
        own = sum(parameter.numel() for name, parameter in self.named_parameters() if not name.startswith("first."))
        shape = (1, self.in_channels, *_sides(*first.image_size, self.size))
        second_pass = count_macs(network, shape) + self.classifier.weight.numel()
        return first._replace(
            parameters=first.parameters + own,
            head_parameters=first.head_parameters + own,
            macs=first.macs + second_pass,
            head_macs=first.head_macs + second_pass,
        )

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> set[str]:
        """What is not trained, all but the classifier: DistributedDataParallel asks for the names."""
        tensors = [*self.named_parameters(), *self.named_buffers()]
        return {name for name, _ in tensors if name.startswith(("first.", "backbone."))}

    def _looks(self) -> tuple[AIMBase, dict[str, Any]]:
        own = {"margin": int(self.margin), "least": float(self.least), "fill": float(self.fill)}
        return self.first, own if self.size is None else own | {"size": int(self.size)}

    @classmethod
    def _rebuilt(cls, config: Config, backbone: Given, where: str) -> Self:
        if config["second_look"] is None:
            raise ValueError(
                f"{where} holds an AIM, which looks once: SecondLook(AIM.from_pretrained({where!r})) adds a second "
                "look, which has to be trained"
            )
        of_first, own = backbone if isinstance(backbone, tuple) else (backbone, None)
        first = AIM._rebuilt(config | {"second_look": None}, of_first, where)
        second: Self = rebuild_second_look(cls, first, config, own, where)
        return second

    def extra_repr(self) -> str:
        """The arguments."""
        return ", ".join(f"{name}={value}" for name, value in self._looks()[1].items())


def _own_network(
    backbone: nn.Module | str | None, arguments: Mapping[str, Any] | None, first: AIM
) -> tuple[TappedBackbone | None, Network | None]:
    """Another network for the second look, up to its final map, and what is known of it."""
    name = backbone if isinstance(backbone, str) else None
    if arguments is not None and name is None:
        raise ValueError("backbone_kwargs builds a backbone given by name; this one is None or already a module")
    if backbone is None:
        return None, None
    network = create_backbone(backbone, arguments) if isinstance(backbone, str) else backbone
    if isinstance(network, nn.Module) and any(isinstance(part, AIMBase) for part in network.modules()):
        raise TypeError("backbone is an AIM, or has one in it; pass the network that it was made of")
    tapped = tap_backbone(network, [], final=True)
    channels = tapped.image_shape[0]
    assert tapped.final is not None
    if channels != first.in_channels:
        raise ValueError(f"backbone must take images of {first.in_channels} channel(s), as the first, got {channels}")
    parts = parts_of(network, tapped.backbone)
    recipe = Recipe(*builder_of(network, name, arguments, channels), tapped.image_shape, modules=parts)
    return tapped.backbone, Network(recipe, tapped.final, preprocessing_of(network, channels))


def kept_pixels(merged_mask: Tensor, images: Tensor, margin: int = 0) -> Tensor:
    """The pixels under a mask, or within some of its positions of it.

    Args:
        merged_mask: (N, 1, h, w) of zeros and ones.
        images: (N, C, H, W), for the size.
        margin: positions by which the mask is grown on every side.

    Returns:
        (N, 1, H, W) of zeros and ones.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[0, 0, 0, 0] = 1
        >>> kept_pixels(mask, torch.zeros(1, 3, 8, 8), margin=1).sum()
        tensor(16.)
    """
    grown = F.max_pool2d(merged_mask, 2 * margin + 1, stride=1, padding=margin)
    # By whole numbers: in float32 some sizes put a border one pixel off, and exports do so elsewhere.
    sizes = zip(images.shape[2:], grown.shape[2:], strict=True)
    rows, columns = (torch.arange(pixels, device=grown.device) * cells // pixels for pixels, cells in sizes)
    return grown.index_select(2, rows).index_select(3, columns)


def boxes_around(kept: Tensor, least: float = 0.3) -> Tensor:
    """The smallest box of the image's own shape around what is kept, within the image.

    Args:
        kept: (N, 1, H, W) of zeros and ones. An empty one gets the complete image.
        least: no box is smaller than this share of the sides.

    Returns:
        (N, 4) as left, top, right, bottom in pixels.

    Example:
        >>> kept = torch.zeros(1, 1, 8, 16)
        >>> kept[0, 0, 2:6, 0:3] = 1
        >>> boxes_around(kept)
        tensor([[0., 2., 8., 6.]])
    """
    height, width = kept.shape[-2:]
    top, bottom = _ends(kept[:, 0].amax(2))
    left, right = _ends(kept[:, 0].amax(1))
    share = torch.maximum((bottom - top) / height, (right - left) / width).clamp(min=least)
    wide, high = share * width, share * height
    left, top = _begin(left, right, wide, width), _begin(top, bottom, high, height)
    return torch.stack([left, top, left + wide, top + high], dim=1)


def enlarge(images: Tensor, boxes: Tensor, size: int | None = None) -> Tensor:
    """Each image's box at the image's own size, or with a shorter side of ``size`` pixels, bilinear.

    Args:
        images: (N, C, H, W).
        boxes: (N, 4) as left, top, right, bottom in pixels.
        size: of the result; its shape is the image's.

    Returns:
        (N, C, H, W), or (N, C, h, w).

    Example:
        >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> torch.equal(enlarge(image, torch.tensor([[0.0, 0.0, 4.0, 4.0]])), image)
        True
    """
    wide = images.to(wide_dtype(images))  # half precision rounds edges
    left, top, right, bottom = (boxes[:, side].to(wide.dtype) for side in range(4))
    height, width = _sides(images.shape[2], images.shape[3], size)
    return _between(_between(wide, top, bottom, height).mT, left, right, width).mT.to(images.dtype)


def _sides(height: int, width: int, size: int | None) -> tuple[int, int]:
    """Height and width at which the shorter of them is the size, by whole numbers, which exports keep."""
    if size is None:
        return height, width
    shorter: Any = torch.sym_min(height, width)
    return size * height // shorter, size * width // shorter


def _between(x: Tensor, begin: Tensor, end: Tensor, length: int) -> Tensor:
    """Stretch the rows of (N, C, H, W) from begin to end (N,) to a length: by gather, which every exporter knows."""
    last = x.shape[2] - 1
    centres = torch.arange(length, device=x.device) + 0.5
    at = begin[:, None] + (end - begin)[:, None] / length * centres - 0.5
    at = at.clamp(0, last)[:, None, :, None]
    low = at.floor().long()
    lower, upper = (x.gather(2, row.expand(-1, x.shape[1], -1, x.shape[3])) for row in (low, (low + 1).clamp(max=last)))
    return lower + (upper - lower) * (at - low)


def on_the_image(heatmap: Tensor, kept: Tensor, boxes: Tensor, mode: str = "nearest") -> Tensor:
    """A second look's map, placed on the image.

    Args:
        heatmap: (N, h, w), over each image's box.
        kept: (N, 1, H, W) of zeros and ones.
        boxes: (N, 4) as left, top, right, bottom in pixels.
        mode: ``"nearest"`` gives each pixel the value of the position that its centre is in, ``"bilinear"`` one between
            those of the four positions whose centres are around it.

    Returns:
        (N, H, W), 0 where a pixel is not kept.
    """
    height, width = kept.shape[-2:]
    left, top, right, bottom = boxes.to(heatmap).unbind(1)
    x = 2 * (torch.arange(width).to(heatmap) + 0.5 - left[:, None]) / (right - left)[:, None] - 1
    y = 2 * (torch.arange(height).to(heatmap) + 0.5 - top[:, None]) / (bottom - top)[:, None] - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    placed = F.grid_sample(heatmap[:, None], grid, mode=mode, align_corners=False)
    return torch.where(kept == 0, 0.0, placed)[:, 0]


def _check_given(images: Tensor, kept: Tensor, boxes: Tensor) -> None:
    number, _, height, width = images.shape
    for name, given, shape, which, way_out in (
        ("kept", kept, (number, 1, height, width), "the images' own", "kept_pixels(mask, images) brings a mask to it"),
        ("boxes", boxes, (number, 4), "left, top, right and bottom in pixels", "boxes_around(kept) makes them"),
    ):
        if given.shape != shape:
            expected = f"{name} must be of shape {shape}, {which}"
            raise ValueError(f"{expected}, got {tuple(given.shape)}; aimwrap.second_look.{way_out}")


def bounds(kept: Tensor) -> Tensor:
    """The smallest rectangle of pixels around what is kept, (N, 1, H, W) of zeros and ones; all where nothing is kept.

    Example:
        >>> bounds(torch.eye(4)[None, None, :, :3])[0, 0, :, 0]
        tensor([1., 1., 1., 0.])
    """
    top, bottom = (end[:, None] for end in _ends(kept[:, 0].amax(2)))
    left, right = (end[:, None] for end in _ends(kept[:, 0].amax(1)))
    rows, columns = (torch.arange(side, device=kept.device) for side in kept.shape[-2:])
    wide, high = (columns >= left) & (columns < right), (rows >= top) & (rows < bottom)
    return (high[:, None, :, None] & wide[:, None, None]).to(kept)


def _ends(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Where the ones of each row begin and end: (N, L) -> (N,) each; a row without ones is all of it."""
    found = occupied.float()
    return found.argmax(1).float(), found.shape[1] - found.flip(1).argmax(1).float()  # without ones, 0 and the length


def _begin(low: Tensor, high: Tensor, size: Tensor, length: int) -> Tensor:
    """Where a box begins that has this size, an interval in its middle, and its ends within the image."""
    return torch.minimum(((low + high - size) / 2).clamp(min=0), length - size)
