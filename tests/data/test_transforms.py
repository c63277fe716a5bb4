"""An object painted on a plain image, and its mask and box, are still in one place after every preset."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from aimwrap import Preprocessing
from aimwrap.data.release import Record, Release, ReleaseDataset
from aimwrap.data.sample import Sample, collate
from aimwrap.data.transforms import (
    Augmentation,
    SampleTransform,
    crop_and_flip,
    eval_transform,
    image_only,
    jitter_crop_and_flip,
    no_augmentation,
    train_transform,
    trivial_augment,
)

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)
PREPROCESSINGS = [
    Preprocessing((224, 224), MEAN, STD),
    Preprocessing((97, 97), MEAN, STD, "bilinear", 0.9),
    Preprocessing((97, 97), MEAN, STD, crop=224 / 256, squash=True),
    Preprocessing((64, 98), MEAN, STD, crop=0.95),
    Preprocessing((98, 65), MEAN, STD, "bilinear", 1.0),
    Preprocessing((60, 40), MEAN, STD, squash=True),
]
RECIPES = [crop_and_flip, jitter_crop_and_flip, trivial_augment, no_augmentation]


# ---- Painting -------------------------------------------------------------------------------------------------------


def painted(size: tuple[int, int], box: tuple[int, int, int, int], ellipse: bool = False) -> Sample:
    """A white object on black, of (W, H) pixels, with its exact mask and box."""
    image = Image.new("RGB", size)
    left, top, right, bottom = box
    draw = ImageDraw.Draw(image)
    (draw.ellipse if ellipse else draw.rectangle)((left, top, right - 1, bottom - 1), fill="white")
    mask = torch.from_numpy(np.asarray(image)[..., 0] / np.float32(255))[None]
    boxes = torch.tensor([box], dtype=torch.float32)
    return sample_of(image, mask, boxes)


def sample_of(image: object, mask: Tensor | None = None, boxes: Tensor | None = None) -> Sample:
    if mask is not None:
        mask = tv_tensors.Mask(mask)
    if boxes is not None:
        boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=v2.functional.get_size(image))
    return Sample(image, 1, 2, 0, mask, boxes, "folder/a.jpg", "17")


@st.composite
def objects(draw: st.DrawFn) -> Sample:
    width, height = draw(st.integers(40, 301)), draw(st.integers(40, 301))
    left, top = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
    right, bottom = draw(st.integers(left + 3, width)), draw(st.integers(top + 3, height))
    return painted((width, height), (left, top, right, bottom), draw(st.booleans()))


def brightness(image: Tensor) -> Tensor:
    """(H, W) in [0, 1], of a normalised image."""
    return (image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).mean(0)


def extent(region: Tensor) -> Tensor:
    """The box around a region (H, W)."""
    rows, columns = region.any(1).nonzero(), region.any(0).nonzero()
    return torch.stack([columns[0, 0], rows[0, 0], columns[-1, 0] + 1, rows[-1, 0] + 1])


def without_colours(recipe: Callable[[Preprocessing], Augmentation]) -> Callable[[Preprocessing], Augmentation]:
    return lambda preprocessing: Augmentation(recipe(preprocessing).geometry)


# ---- Mask and boxes stay on the object ------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
@settings(max_examples=60)
@given(sample=objects(), preprocessing=st.sampled_from(PREPROCESSINGS), seed=st.integers(0, 10**6))
def test_the_mask_is_the_painted_object_pixel_by_pixel(
    recipe: Callable[[Preprocessing], Augmentation], sample: Sample, preprocessing: Preprocessing, seed: int
) -> None:
    torch.manual_seed(seed)
    moved = train_transform(preprocessing, without_colours(recipe))(sample)
    assert moved.object_mask.shape[1:] == moved.image.shape[1:] == preprocessing.image_size
    assert moved.object_mask.dtype == moved.image.dtype == torch.float32
    assert moved.object_mask.min() >= 0 and moved.object_mask.max() <= 1
    # Pillow cuts what bicubic filters overshoot after each axis, torch after both: up to 0.1 at corners.
    torch.testing.assert_close(moved.object_mask[0].as_subclass(Tensor), brightness(moved.image), rtol=0, atol=0.2)


@pytest.mark.parametrize("recipe", [jitter_crop_and_flip, trivial_augment])
@settings(max_examples=60)
@given(sample=objects(), preprocessing=st.sampled_from(PREPROCESSINGS), seed=st.integers(0, 10**6))
def test_colours_stay_in_the_place_of_the_mask(
    recipe: Callable[[Preprocessing], Augmentation], sample: Sample, preprocessing: Preprocessing, seed: int
) -> None:
    torch.manual_seed(seed)
    moved = train_transform(preprocessing, recipe)(sample)
    values, mask = brightness(moved.image), moved.object_mask[0].as_subclass(Tensor)
    around = F.max_pool2d(mask[None], 5, stride=1, padding=2)[0]  # a rim of two pixels, which equalising brightens
    background, inside = values[around < 0.004], values[mask > 0.98]
    assume(len(background) and len(inside))
    assert inside.min() > background.max() + 0.1


@pytest.mark.parametrize("recipe", [crop_and_flip, no_augmentation])
@settings(max_examples=60)
@given(sample=objects(), preprocessing=st.sampled_from(PREPROCESSINGS), seed=st.integers(0, 10**6))
def test_the_box_is_around_the_painted_object(
    recipe: Callable[[Preprocessing], Augmentation], sample: Sample, preprocessing: Preprocessing, seed: int
) -> None:
    torch.manual_seed(seed)
    (height, width), moved = preprocessing.image_size, train_transform(preprocessing, recipe)(sample)
    region = brightness(moved.image) > 0.5
    if not len(moved.boxes):
        assert not region.any() and moved.object_mask.max() < 0.5
        return
    box = moved.boxes[0]
    assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
    assert moved.boxes.canvas_size == preprocessing.image_size
    assume((box[2:] - box[:2]).min() > 4)  # ellipses are thin at their ends, and these may be all that is left
    square = sample.object_mask.sum() == (sample.boxes[0, 2:] - sample.boxes[0, :2]).prod()
    apart = extent(region) - box
    assert (apart.abs() if square else -apart * torch.tensor([1, 1, -1, -1])).max() <= 1


@settings(max_examples=60)
@given(sample=objects(), preprocessing=st.sampled_from(PREPROCESSINGS), seed=st.integers(0, 10**6))
def test_the_box_holds_a_turned_object(sample: Sample, preprocessing: Preprocessing, seed: int) -> None:
    torch.manual_seed(seed)
    moved = train_transform(preprocessing, trivial_augment)(sample)
    region = moved.object_mask[0] > 0.5
    assume(region.any())
    beyond = (moved.boxes[0] - extent(region)) * torch.tensor([1, 1, -1, -1])
    assert beyond.max() <= 1.5


@pytest.mark.parametrize("step", [v2.RandomHorizontalFlip(p=1), v2.RandomVerticalFlip(p=1), v2.CenterCrop((10, 20))])
def test_tensors_of_ones_own_move_alike(step: v2.Transform) -> None:
    torch.manual_seed(0)
    mask = (torch.rand(1, 30, 40) > 0.5).float()
    boxes = torch.tensor([[12.0, 11.0, 18.0, 19.0]])
    moved = SampleTransform([step], [v2.ToPureTensor()])(Sample(mask.expand(3, -1, -1), 0, 0, 0, mask, boxes, "", ""))
    assert torch.equal(moved.image, moved.object_mask.expand(3, -1, -1).as_subclass(Tensor))
    assert torch.equal(moved.image[0], step(tv_tensors.Image(mask))[0])
    marked = torch.zeros(1, 30, 40)
    marked[:, 11:19, 12:18] = 1
    assert torch.equal(extent(step(tv_tensors.Image(marked))[0] > 0), moved.boxes[0].long())


# ---- Pixels, soft masks, what is cropped away -----------------------------------------------------------------------


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
@pytest.mark.parametrize("size", [(150, 201), (301, 97), (40, 50)])
@pytest.mark.parametrize("with_mask", [True, False])
def test_evaluation_gives_the_pixels_of_the_preprocessing(
    preprocessing: Preprocessing, size: tuple[int, int], with_mask: bool
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for image in (Image.fromarray(values), torch.from_numpy(values).permute(2, 0, 1)):
        sample = sample_of(image, torch.ones(1, *size) if with_mask else None)
        moved = eval_transform(preprocessing)(sample)
        assert type(moved.image) is Tensor
        assert torch.equal(moved.image, preprocessing.transform()(image))
        assert (moved.object_mask is not None) == with_mask


def test_soft_masks_are_filtered_as_images() -> None:
    transform = eval_transform(Preprocessing((2, 2), MEAN, STD, "bilinear", 1.0))
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    moved = transform(sample_of(Image.new("RGB", (4, 4)), mask)).object_mask
    assert type(moved) is tv_tensors.Mask
    # A tent over two pixels to each side: weights 3/4, 3/4 and 1/4 on the three rows that it reaches.
    torch.testing.assert_close(moved.as_subclass(Tensor), torch.tensor([[[6 / 7] * 2, [1 / 7] * 2]]))
    assert mask.unique().tolist() == [0, 1]


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
def test_shares_of_pixels_stay_shares(preprocessing: Preprocessing) -> None:
    half = torch.full((1, 100, 130), 0.5)
    moved = eval_transform(preprocessing)(sample_of(Image.new("RGB", (130, 100)), half)).object_mask
    torch.testing.assert_close(moved.as_subclass(Tensor), torch.full((1, *preprocessing.image_size), 0.5))


def test_what_is_thinner_than_a_pixel_does_not_vanish() -> None:
    mask = torch.zeros(1, 400, 400)
    mask[:, 201] = 1
    preprocessing = Preprocessing((50, 50), MEAN, STD, "bilinear", 1.0)
    moved = eval_transform(preprocessing)(sample_of(Image.new("RGB", (400, 400)), mask)).object_mask
    assert moved.sum(1).mean() == pytest.approx(1 / 8, rel=0.1)


def test_what_is_cropped_away_leaves_an_empty_mask_and_no_box() -> None:
    transform = eval_transform(Preprocessing((50, 50), MEAN, STD, "bilinear", 0.5))
    moved = transform(painted((200, 100), (0, 0, 20, 20)))
    assert moved.object_mask.max() == 0 and moved.boxes.shape == (0, 4)
    assert collate([moved, moved]).boxes[0].shape == (0, 4)


def test_boxes_are_cut_off_and_the_others_stay_in_order() -> None:
    boxes = torch.tensor([[0, 0, 20, 20], [40, 10, 60, 80], [60, 30, 70, 40], [90, 90, 100, 100], [45, 45, 50, 50.5]])
    transform = SampleTransform([v2.CenterCrop((50, 50))], [])
    moved = transform(sample_of(Image.new("RGB", (100, 100)), boxes=boxes))
    assert moved.boxes.tolist() == [[15, 0, 35, 50], [35, 5, 45, 15], [20, 20, 25, 25.5]]
    assert moved.object_mask is None


def test_turning_brings_no_box_back() -> None:
    transform = SampleTransform([v2.CenterCrop((50, 50)), v2.RandomRotation((45, 45))], [])
    moved = transform(sample_of(Image.new("RGB", (100, 100)), boxes=torch.tensor([[5.0, 30, 24, 70]])))
    assert moved.boxes.shape == (0, 4)


def test_boxes_of_another_format_come_back_as_corners() -> None:
    boxes = tv_tensors.BoundingBoxes([[10, 20, 30, 40]], format="XYWH", canvas_size=(100, 100))
    sample = sample_of(Image.new("RGB", (100, 100)))._replace(boxes=boxes)
    moved = SampleTransform([v2.Resize((50, 50))], [])(sample)
    assert moved.boxes.tolist() == [[5, 10, 20, 30]] and moved.boxes.format.value == "XYXY"
    assert moved.boxes.dtype == torch.float32


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_rest_of_a_sample_is_left_alone(recipe: Callable[[Preprocessing], Augmentation]) -> None:
    sample = painted((60, 50), (10, 10, 30, 30))
    transform = train_transform(PREPROCESSINGS[1], recipe)
    for given_sample in (sample, sample._replace(object_mask=None), sample._replace(boxes=None)):
        moved = transform(given_sample)
        assert type(moved) is Sample
        for name in ("label", "group", "place", "path", "id"):
            assert getattr(moved, name) == getattr(sample, name)
        assert (moved.object_mask is None) == (given_sample.object_mask is None)
        assert (moved.boxes is None) == (given_sample.boxes is None)
    unknown = Sample(sample.image, 0, None, None, None, None, "b.jpg", "3")
    assert transform(unknown)[1:] == unknown[1:]
    assert sample.object_mask.shape == (1, 50, 60) and sample.image.size == (60, 50)


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"object_mask must be of the image's size, \(50, 60\).*got \(60, 50\)"):
        eval_transform(PREPROCESSINGS[0])(sample_of(Image.new("RGB", (60, 50)), torch.ones(1, 60, 50)))


def test_an_image_alone_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes a complete aimwrap.data.Sample, got Image; .* Preprocessing.transform"):
        eval_transform(PREPROCESSINGS[0])(Image.new("RGB", (60, 50)))


# ---- What the recipes draw ------------------------------------------------------------------------------------------


def draws(recipe: Callable[[Preprocessing], Augmentation], image: Image.Image, number: int) -> Tensor:
    torch.manual_seed(0)
    preprocessing = Preprocessing((40, 40), (0.0,) * 3, (1.0,) * 3, "bilinear")
    transform = train_transform(preprocessing, recipe)
    return torch.stack([transform(sample_of(image)).image for _ in range(number)])


@pytest.mark.parametrize(("recipe", "smallest"), [(crop_and_flip, 0.7), (jitter_crop_and_flip, 0.08)])
def test_crops_keep_the_share_of_the_area(recipe: Callable[[Preprocessing], Augmentation], smallest: float) -> None:
    ramp = np.linspace(0, 255, 201).round().astype(np.uint8)
    image = Image.fromarray(np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], 0 * ramp), axis=-1))
    images = draws(lambda p: Augmentation(recipe(p).geometry), image, 150)[:, :2].flatten(2)
    shares = (images.amax(2) - images.amin(2)).prod(1)
    assert smallest - 0.07 < shares.min() < smallest + 0.1 and shares.max() > 0.85
    lengths = images.amax(2) - images.amin(2)
    assert (lengths[:, 0] / lengths[:, 1]).max() < 1.45 and (lengths[:, 1] / lengths[:, 0]).max() < 1.45


@pytest.mark.parametrize("recipe", [crop_and_flip, jitter_crop_and_flip, trivial_augment])
def test_half_of_the_images_are_flipped(recipe: Callable[[Preprocessing], Augmentation]) -> None:
    ramp = np.linspace(0, 255, 200).astype(np.uint8)
    images = draws(recipe, Image.fromarray(np.broadcast_to(ramp[:, None], (200, 200, 3)[:2])).convert("RGB"), 1)
    assert images.shape == (1, 3, 40, 40)
    images = draws(recipe, Image.fromarray(np.ascontiguousarray(np.broadcast_to(ramp, (200, 200)))).convert("RGB"), 200)
    flipped = images[..., 5:15].mean((1, 2, 3)) > images[..., 25:35].mean((1, 2, 3))
    assert 0.4 < flipped.float().mean() < 0.6


def test_jitter_changes_brightness_and_saturation_alone() -> None:
    image = Image.new("RGB", (60, 60), (150, 100, 50))
    images = draws(jitter_crop_and_flip, image, 100).mean((2, 3))
    grey = images @ torch.tensor([0.299, 0.587, 0.114]) / (0.299 * 150 + 0.587 * 100 + 0.114 * 50) * 255
    assert 0.86 < grey.min() < 0.9 and 1.1 < grey.max() < 1.14
    spread = (images[:, 0] - images[:, 2]) / grey / (100 / 255)
    assert 0.45 < spread.min() < 0.6 and 1.4 < spread.max() < 1.55


def test_trivial_augment_draws_every_operation() -> None:
    torch.manual_seed(0)
    augmentation = trivial_augment(PREPROCESSINGS[1])
    image = Image.fromarray(np.random.default_rng(0).integers(30, 226, (105, 105, 3), dtype=np.uint8))
    for choice, operations in ((augmentation.geometry[2], 6), (augmentation.colour[0], 8)):
        assert len(choice.transforms) == operations
        changed = [
            any((np.asarray(operation(image)) != np.asarray(image)).any() for _ in range(8))  # some strengths are none
            for operation in choice.transforms
        ]
        assert changed == [False] + [True] * (operations - 1)


def test_no_augmentation_is_evaluation() -> None:
    sample = painted((150, 97), (20, 30, 70, 80))
    for preprocessing in PREPROCESSINGS:
        trained, evaluated = (
            train_transform(preprocessing, no_augmentation)(sample),
            eval_transform(preprocessing)(sample),
        )
        assert torch.equal(trained.image, evaluated.image) and torch.equal(trained.object_mask, evaluated.object_mask)


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_seed_gives_one_image_also_after_a_pickle(recipe: Callable[[Preprocessing], Augmentation]) -> None:
    sample, transform = painted((150, 97), (20, 30, 70, 80)), train_transform(PREPROCESSINGS[1], recipe)
    torch.manual_seed(3)
    first = transform(sample)
    torch.manual_seed(3)
    second = pickle.loads(pickle.dumps(transform))(sample)
    assert torch.equal(first.image, second.image) and torch.equal(first.object_mask, second.object_mask)


def test_a_transform_shows_its_steps() -> None:
    assert "RandomResizedCrop(size=(97, 97), scale=(0.7, 1.0)" in repr(train_transform(PREPROCESSINGS[1]))


# ---- Transforms of images alone -------------------------------------------------------------------------------------

IMAGE_ONLY = {
    "torchvision's first version": v1.Compose([v1.Resize(30), v1.CenterCrop(30), v1.ToTensor()]),
    "timm's": create_transform((3, 30, 30)),
    "timm's for training": create_transform((3, 30, 30), is_training=True, auto_augment="rand-m9-mstd0.5-inc1"),
    "a model's weights'": torchvision.models.ResNet18_Weights.DEFAULT.transforms(),
    "one's own": lambda image: v1.functional.to_tensor(image.resize((30, 30))),
}


@pytest.fixture
def release(tmp_path: Path) -> Release:
    records = []
    for number in range(4):
        sample = painted((60, 50), (10, 10, 30 + number, 30))
        image, mask = tmp_path / f"{number}.png", tmp_path / f"mask{number}.png"
        sample.image.save(image)
        sample.image.convert("L").save(mask)
        box = tuple(sample.boxes[0].tolist())
        records.append(Record(str(number), image, number % 2, "train", number % 2, mask, (box,)))
    return Release("Painted", tmp_path, tuple(records), ("a", "b"), ("land", "water"))


@pytest.mark.parametrize("name", IMAGE_ONLY)
def test_a_data_set_refuses_transforms_of_images_alone(release: Release, name: str) -> None:
    data = ReleaseDataset(release, "train", IMAGE_ONLY[name])
    with pytest.raises(
        TypeError, match=r"transform failed on the sample of .*0\.png.*aimwrap\.data\.image_only"
    ) as error:
        data[0]
    assert isinstance(error.value.__cause__, (TypeError, AttributeError))


@pytest.mark.parametrize("name", IMAGE_ONLY)
def test_image_only_applies_them_and_drops_what_would_be_wrong(release: Release, name: str) -> None:
    torch.manual_seed(0)
    sample = ReleaseDataset(release, "train", image_only(IMAGE_ONLY[name]))[1]
    assert isinstance(sample.image, Tensor) and sample.object_mask is None and sample.boxes is None
    plain = ReleaseDataset(release, "train")[1]
    assert sample[1:4] == plain[1:4] == (1, 3, 1) and sample[6:] == plain[6:]
    if name != "timm's for training":
        assert torch.equal(sample.image, IMAGE_ONLY[name](plain.image))


def test_image_only_can_be_sent_to_workers(release: Release) -> None:
    transform = pickle.loads(pickle.dumps(image_only(IMAGE_ONLY["timm's"])))
    assert ReleaseDataset(release, "train", transform)[0].image.shape == (3, 30, 30)


@pytest.mark.parametrize("transform", [lambda sample: (sample.image, sample.label), lambda sample: None])
def test_a_data_set_refuses_what_is_no_sample(release: Release, transform: Callable[[Sample], Sample]) -> None:
    with pytest.raises(TypeError, match=r"transform must return an aimwrap.data.Sample, got (tuple|NoneType)"):
        ReleaseDataset(release, "train", transform)[0]


def test_a_data_set_refuses_images_that_moved_without_their_masks(release: Release) -> None:
    def resize_image(sample: Sample) -> Sample:
        return sample._replace(image=sample.image.resize((30, 20)))

    with pytest.raises(ValueError, match=r"object_mask must be of the image's size, \(20, 30\).*got \(50, 60\)"):
        ReleaseDataset(release, "train", resize_image)[0]
    with pytest.raises(ValueError, match=r"boxes must be of the image's size"):
        ReleaseDataset(release, "train", lambda sample: resize_image(sample)._replace(object_mask=None))[0]


def test_transforms_of_v2_are_taken_as_they_are(release: Release) -> None:
    transform = v2.Compose([v2.Resize((25, 30)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    sample = ReleaseDataset(release, "train", transform)[0]
    assert sample.object_mask.shape == (1, 25, 30) and sample.boxes.tolist() == [[5, 5, 15, 15]]


def test_batches_through_workers(release: Release) -> None:
    data = ReleaseDataset(release, "train", train_transform(PREPROCESSINGS[1]))
    batches = list(DataLoader(data, 2, num_workers=1, collate_fn=collate))
    assert [batch.label.tolist() for batch in batches] == [[0, 1], [0, 1]]
    for batch in batches:
        assert batch.image.shape == (2, 3, 97, 97) and batch.object_mask.shape == (2, 1, 97, 97)
        assert type(batch.image) is Tensor and type(batch.object_mask) is Tensor
        for image, mask in zip(batch.image, batch.object_mask[:, 0], strict=True):
            assert (brightness(image) - mask).abs().max() < 0.1
