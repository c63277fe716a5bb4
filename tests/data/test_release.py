"""Releases as data sets: samples on demand, groups, workers, refusals."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from releases import make_cub, make_waterbirds
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision import tv_tensors
from torchvision.transforms import v2

from aimwrap.data import LabelledTable, Record, Release, ReleaseDataset, Sample, Waterbirds, collate
from aimwrap.data.release import read_sample


def half_transform(sample: Sample) -> Sample:
    """A transform that can be pickled, of the complete sample: mirrored, 16 x 20, float."""
    picture, mask, boxes = sample.image, sample.object_mask, sample.boxes
    chain = v2.Compose(
        [v2.ToImage(), v2.RandomHorizontalFlip(p=1), v2.Resize((16, 20), antialias=True), v2.ToDtype(torch.float32)]
    )
    image, mask, boxes = chain(picture, mask, boxes)
    return sample._replace(image=image, object_mask=mask, boxes=boxes)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Waterbirds with CUB next to it; read only."""
    parent = tmp_path_factory.mktemp("release")
    make_cub(parent)
    return make_waterbirds(parent)


def release_of(folder: Path, *records: Record, places: tuple[str, ...] = ()) -> Release:
    return Release("a set", folder, records, ("first", "second", "third"), places)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 6)).save(tmp_path / "x.png")
    return tmp_path / "x.png"


class TestReleaseDataset:
    def test_length_order_and_index(self, home: Path) -> None:
        data = Waterbirds(home)
        assert len(data) == len(data.records) == len(data.labels) == 24
        assert data[-1].id == data[len(data) - 1].id == data.records[-1].id
        assert data[np.int64(1)].id == data[torch.tensor(1)].id == data.records[1].id
        for index in (len(data), -len(data) - 1):
            with pytest.raises(IndexError):
                data[index]
        assert [sample.id for sample in data] == [record.id for record in data.records]

    def test_none_takes_all_splits(self, home: Path) -> None:
        assert len(Waterbirds(home, None)) == sum(len(Waterbirds(home, split)) for split in ("train", "val", "test"))

    def test_the_splits_are_listed_in_order(self, home: Path) -> None:
        assert Waterbirds(home, "test").splits == ("train", "val", "test")

    @pytest.mark.parametrize("split", ["valid", "TRAIN", "", 0])
    def test_no_such_split(self, home: Path, split: object) -> None:
        with pytest.raises(ValueError, match=r"split must be among 'train', 'val', 'test' for Waterbirds .*, got "):
            Waterbirds(home, split)

    def test_transform_sees_the_complete_sample(self, home: Path) -> None:
        plain, moved = Waterbirds(home)[3], Waterbirds(home, transform=half_transform)[3]
        left, top, right, bottom = moved.boxes[0].tolist()
        inside = moved.image[:, round(top) + 1 : round(bottom) - 1, round(left) + 1 : round(right) - 1]
        assert moved.image.shape == (3, 16, 20) and inside.min() > 150
        assert moved.object_mask.shape == (1, 16, 20)
        assert moved.object_mask[0, round(top) + 1 : round(bottom) - 1, round(left) + 1 : round(right) - 1].min() == 1
        assert moved[1:4] == plain[1:4] and moved[6:] == plain[6:]

    def test_an_index_error_is_not_the_end(self, home: Path) -> None:
        """Python's own iteration by index would take it for the end, and leave images out without a word."""

        def fail(sample: Sample) -> Sample:
            raise IndexError("of the transform")

        with pytest.raises(IndexError, match="of the transform"):
            list(Waterbirds(home, transform=fail))
        assert len(list(Waterbirds(home))) == len(Waterbirds(home))

    def test_places_and_groups(self, picture: Path) -> None:
        records = [Record(str(n), picture, label, "train", place) for n, (label, place) in enumerate([(2, 0), (0, 3)])]
        data = ReleaseDataset(release_of(picture.parent, *records, places=("a", "b", "c", "d")), "train")
        assert data.groups.tolist() == [8, 3] and data.group_names[8] == "third, a" and len(data.group_names) == 12
        assert [sample.group for sample in data] == [8, 3]

    def test_groups_are_unknown_if_one_place_is(self, picture: Path) -> None:
        records = [Record("1", picture, 0, "train", 0), Record("2", picture, 0, "train")]
        data = ReleaseDataset(release_of(picture.parent, *records, places=("a",)), None)
        assert data.groups is None and data.place_numbers is None
        assert data[0].group == 0 and data[1].group is None

    def test_labels_of_an_empty_set_are_integers(self, tmp_path: Path) -> None:
        assert ReleaseDataset(release_of(tmp_path), None).labels.dtype == torch.int64


class TestReadSample:
    @pytest.mark.parametrize(
        ("box", "fits"),
        [
            ((0, 0, 8, 6), True),
            ((-1, -1, 9, 7), True),  # a pixel of rounding
            ((-1.5, 0, 8, 6), False),
            ((0, -1.5, 8, 6), False),
            ((0, 0, 9.5, 6), False),
            ((0, 0, 8, 7.5), False),
            ((3, 0, 3, 6), False),
            ((5, 0, 3, 6), False),
            ((0, 4, 8, 2), False),
            ((float("nan"), 0, 8, 6), False),
        ],
    )
    def test_boxes_lie_in_their_image(self, picture: Path, box: tuple[float, ...], fits: bool) -> None:
        record = Record("7", picture, 0, "train", boxes=((1, 1, 2, 2), box))
        if fits:
            boxes = read_sample(record, release_of(picture.parent)).boxes
            assert boxes.tolist() == [[1, 1, 2, 2], list(box)] and boxes.canvas_size == (6, 8)
        else:
            with pytest.raises(ValueError, match=r"the boxes of image 7, .* are not inside its 8 x 6 pixels \(W x"):
                read_sample(record, release_of(picture.parent))

    def test_no_boxes_are_known_boxes(self, picture: Path) -> None:
        boxes = read_sample(Record("7", picture, 0, "train", boxes=()), release_of(picture.parent)).boxes
        assert boxes.shape == (0, 4)

    @pytest.mark.parametrize("size", [(6, 8), (8, 5), (4, 3), (16, 12)])
    def test_mask_is_as_large_as_its_image(self, picture: Path, size: tuple[int, int]) -> None:
        Image.new("L", size).save(picture.parent / "mask.png")
        record = Record("7", picture, 0, "train", mask_path=picture.parent / "mask.png")
        with pytest.raises(ValueError, match="belong to different releases, or one was resized"):
            read_sample(record, release_of(picture.parent))

    def test_any_value_is_the_releases_choice(self, picture: Path) -> None:
        Image.new("L", (8, 6), 51).save(picture.parent / "mask.png")
        record = Record("7", picture, 0, "train", mask_path=picture.parent / "mask.png")
        soft = release_of(picture.parent)
        hard = Release("hard", picture.parent, (), (), any_value_is_object=True)
        assert read_sample(record, soft).object_mask.unique().tolist() == pytest.approx([0.2])
        mask = read_sample(record, hard).object_mask
        assert mask.unique().tolist() == [1] and type(mask) is tv_tensors.Mask


class TestLoading:
    @pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
    def test_workers_read_what_the_main_process_reads(self, home: Path, context: str) -> None:
        data = Waterbirds(home, "val", transform=half_transform)
        here = list(DataLoader(data, batch_size=7, collate_fn=collate))
        there = list(DataLoader(data, batch_size=7, collate_fn=collate, num_workers=1, multiprocessing_context=context))
        assert len(here) == len(there) == 4
        for batch, twin in zip(here, there, strict=True):
            assert batch.id == twin.id and batch.path == twin.path
            assert torch.equal(batch.image, twin.image) and torch.equal(batch.object_mask, twin.object_mask)
            assert torch.equal(batch.group, twin.group)
            assert all(map(torch.equal, batch.boxes, twin.boxes))

    @pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
    def test_workers_that_stay_read_sets_of_different_knowledge(self, home: Path, context: str) -> None:
        """One set knows places and masks and the other does not, so the batch does not."""
        table = home / "plain.csv"
        names = [record.path.relative_to(home).as_posix() for record in Waterbirds(home).records[:3]]
        table.write_text("image,label\n" + "".join(f"{name},a\n" for name in names), encoding="utf-8")
        birds, plain = Waterbirds(home, transform=half_transform), LabelledTable(table, transform=half_transform)
        both = ConcatDataset([Subset(birds, [0, 1]), plain])
        workers = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": context}
        loader = DataLoader(both, 4, collate_fn=collate, **workers)
        for _ in range(2):
            first, last = list(loader)
            assert (first.group, first.place, first.object_mask, first.boxes) == (None, None, None, None)
            assert first.path == tuple(str(each.path) for each in (*birds.records[:2], *plain.records[:2]))
            assert len(last.label) == 1 and last.object_mask is None

    def test_data_set_can_be_pickled(self, home: Path) -> None:
        data = Waterbirds(home, "test", transform=half_transform)
        twin = pickle.loads(pickle.dumps(data))
        assert twin.release == data.release and twin.records == data.records and twin.version == data.version
        assert torch.equal(twin.groups, data.groups) and torch.equal(twin[5].image, data[5].image)

    def test_subsets(self, home: Path) -> None:
        data = Waterbirds(home)
        assert [sample.id for sample in Subset(data, [4, 2])] == [data.records[4].id, data.records[2].id]
