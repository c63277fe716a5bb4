"""Samples, their groups, and batches of them."""

import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from aimwrap.data import Batch, Sample, collate, group_number


def make_sample(number: int = 0, **changes: object) -> Sample:
    """A sample with everything known, of 4 x 6 pixels."""
    boxes = tv_tensors.BoundingBoxes(torch.full((number + 1, 4), 1.0), format="XYXY", canvas_size=(4, 6))
    mask = tv_tensors.Mask(torch.full((1, 4, 6), 0.5))
    image = tv_tensors.Image(torch.full((3, 4, 6), float(number)))
    return Sample(image, number, 2 * number + 1, 1, mask, boxes, f"{number}.jpg", str(number))._replace(**changes)


class TestGroupNumber:
    def test_numbers_as_group_dro_and_wilds(self) -> None:
        """0 land on land, 1 land on water, 2 water on land, 3 water on water."""
        assert [group_number(label, place, 2) for label in (0, 1) for place in (0, 1)] == [0, 1, 2, 3]

    def test_each_pair_has_its_own_number(self) -> None:
        numbers = [group_number(label, place, num_places=5) for label in range(3) for place in range(5)]
        assert numbers == list(range(15))

    def test_tensors(self) -> None:
        assert group_number(torch.tensor([0, 1]), torch.tensor([1, 0]), 2).tolist() == [1, 2]


class TestCollate:
    def test_everything_side_by_side(self) -> None:
        batch = collate([make_sample(0), make_sample(1)])
        assert isinstance(batch, Batch)
        assert batch.image.shape == (2, 3, 4, 6) and batch.image[1].unique().tolist() == [1]
        assert batch.label.tolist() == [0, 1] and batch.label.dtype == torch.int64
        assert batch.group.tolist() == [1, 3] and batch.place.tolist() == [1, 1]
        assert batch.object_mask.shape == (2, 1, 4, 6) and batch.object_mask.dtype == torch.float32
        assert [boxes.shape for boxes in batch.boxes] == [(1, 4), (2, 4)]
        assert batch.path == ("0.jpg", "1.jpg") and batch.id == ("0", "1")

    def test_plain_tensors_come_out(self) -> None:
        """A model's first operation should not have to unwrap torchvision's subclasses."""
        batch = collate([make_sample()])
        assert type(batch.image) is type(batch.object_mask) is type(batch.boxes[0]) is torch.Tensor

    @pytest.mark.parametrize("field", ["group", "place", "object_mask", "boxes"])
    def test_what_one_does_not_know_is_none(self, field: str) -> None:
        batch = collate([make_sample(0), make_sample(1, **{field: None})])
        assert getattr(batch, field) is None
        others = {"group", "place", "object_mask", "boxes"} - {field}
        assert all(getattr(batch, other) is not None for other in others)

    def test_group_zero_is_known(self) -> None:
        batch = collate([make_sample(0, group=0, place=0)])
        assert batch.group.tolist() == [0] and batch.place.tolist() == [0]

    def test_pictures_need_a_transform(self) -> None:
        with pytest.raises(TypeError, match="images must be tensors to be stacked, got Image; give the data set"):
            collate([make_sample(0, image=Image.new("RGB", (6, 4)))])

    def test_sizes_must_be_one(self) -> None:
        with pytest.raises(
            ValueError, match=r"must have one size, got \(3, 4, 6\) for 0.jpg and \(3, 6, 4\) for 1.jpg"
        ):
            collate([make_sample(0), make_sample(1, image=torch.zeros(3, 6, 4))])

    def test_masks_are_as_large_as_the_images(self) -> None:
        """A transform of only the image does not move the mask, which would then be off the object."""
        with pytest.raises(ValueError, match=r"object_mask of 1.jpg .* \(1, 8, 8\).*\(3, 4, 6\)"):
            collate([make_sample(0), make_sample(1, object_mask=torch.zeros(1, 8, 8))])
        with pytest.raises(ValueError, match=r"object_mask of 0.jpg"):
            collate([make_sample(0, object_mask=torch.zeros(1, 8, 8))])

    def test_none_at_all(self) -> None:
        with pytest.raises(ValueError, match="at least one sample"):
            collate([])


def test_samples_and_batches_travel_between_processes() -> None:
    sample = make_sample(1)
    twin = pickle.loads(pickle.dumps(sample))
    assert type(twin) is Sample and type(twin.object_mask) is tv_tensors.Mask
    assert torch.equal(twin.image, sample.image) and twin[6:] == sample[6:]
    assert type(pickle.loads(pickle.dumps(collate([sample])))) is Batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinning needs CUDA")
def test_pinning_keeps_the_batch() -> None:
    """What ``pin_memory=True`` does to a batch must give a Batch again; None and strings pass."""
    loader = DataLoader([make_sample(0, place=None, group=None)], collate_fn=collate, pin_memory=True)
    (batch,) = loader
    assert type(batch) is Batch and batch.place is None and batch.path == ("0.jpg",) and batch.image.is_pinned()
