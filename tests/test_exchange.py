"""What is pasted where, when backgrounds are exchanged."""

import pytest
import torch
from torch import Tensor

from aimwrap import exchange_backgrounds


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squares(number: int = 5, channels: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Image n is n + 1 all over, and 100 + n in a square of its own; the masks are these squares, on 8 x 8."""
    images = torch.arange(1.0, number + 1)[:, None, None, None].repeat(1, channels, 32, 32)
    masks = torch.zeros(number, 1, 8, 8)
    for n in range(number):
        masks[n, :, n % 4 + 1 : n % 4 + 3, 2:4] = 1
        images[n, :, 4 * (n % 4 + 1) : 4 * (n % 4 + 3), 8:16] = 100 + n
    return images.to(dtype), masks


@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_kept_pixels_are_the_image_s_own_and_the_others_another_one_s(channels: int, dtype: torch.dtype) -> None:
    """With masks of the images' own size edges are hard, so every pixel is known."""
    images, masks = squares(channels=channels, dtype=dtype)
    kept = masks.repeat_interleave(4, 2).repeat_interleave(4, 3).bool()
    found = exchange_backgrounds(images, kept, margin=0, generator=seeded())
    assert found.dtype == dtype and found.shape == images.shape
    own = kept.expand_as(images)
    assert torch.equal(found[own], images[own])
    behind = [found[n][~own[n]].unique() for n in range(5)]  # the other's square took the colour around it
    assert all(len(colours) == 1 for colours in behind), "kept pixels of the other image are left"
    others = [int(colours) - 1 for colours in behind]
    assert sorted(others) == [0, 1, 2, 3, 4] and all(n != other for n, other in enumerate(others))


def test_edges_are_soft_over_one_position() -> None:
    images = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, :, 1:3, 1:3] = 1
    row = exchange_backgrounds(images, masks, margin=0)[0, 0, 8]
    expected = torch.tensor([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])
    torch.testing.assert_close(row, expected, atol=2 / 255, rtol=0)
    grown = exchange_backgrounds(images, masks)[0, 0, 8]
    assert not grown.any(), "a margin of one position reaches the border of the image"


def test_the_draw_is_the_generator_s_and_every_order_of_two_or_more_is_a_ring() -> None:
    images, masks = squares(12)
    first = exchange_backgrounds(images, masks, generator=seeded())
    assert torch.equal(first, exchange_backgrounds(images, masks, generator=seeded()))
    assert not torch.equal(first, exchange_backgrounds(images, masks, generator=seeded(1)))
    torch.manual_seed(3)
    first = exchange_backgrounds(images, masks)
    torch.manual_seed(3)
    assert torch.equal(first, exchange_backgrounds(images, masks))
    for number in (2, 3, 7):
        images, masks = (
            torch.arange(number * 1.0)[:, None, None, None].expand(-1, 1, 8, 8),
            torch.zeros(number, 1, 4, 4),
        )
        for seed in range(20):
            colours = exchange_backgrounds(images, masks, generator=seeded(seed))[:, 0, 0, 0]
            assert colours.sort().values.tolist() == list(range(number)) and (colours != torch.arange(number)).all()


def test_given_images_are_pasted_on_and_filled_only_where_masks_say_so() -> None:
    images, masks = squares(6)
    onto, onto_masks = squares(3)
    onto[:, :, 0, 0] = torch.tensor([10.0, 20.0, 30.0])[:, None]
    found = exchange_backgrounds(images, masks, onto=onto, margin=0, generator=seeded())
    drawn = torch.tensor([round(float(value)) // 10 - 1 for value in found[:, 0, 0, 0]])
    assert set(drawn.tolist()) <= {0, 1, 2} and len(drawn.unique()) > 1
    nowhere = exchange_backgrounds(images, torch.zeros_like(masks), onto=onto, generator=seeded())
    assert torch.equal(nowhere, onto[drawn]), "images that are given without masks are shown as they are"
    filled = exchange_backgrounds(
        images, torch.zeros_like(masks), onto=onto, onto_masks=onto_masks, margin=0, generator=seeded()
    )
    assert filled.max() < 50 and torch.equal(filled[:, :, -1], onto[drawn][:, :, -1])
    one = exchange_backgrounds(images[:1], masks[:1], onto=onto)
    assert one.shape == (1, 3, 32, 32)


def test_nan_stays_unless_it_is_hidden() -> None:
    images, masks = squares(2)
    kept = masks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    images[0, :, 4, 8] = float("nan")  # kept
    first, second = exchange_backgrounds(images, kept, margin=0)
    assert first[:, 4, 8].isnan().all() and first.isnan().sum() == 3
    assert not second.isnan().any(), "a kept pixel of the other image came through"
    images[1, :, 0, 0] = float("nan")  # not kept
    assert exchange_backgrounds(images, kept, margin=0)[0, :, 0, 0].isnan().all()


def test_a_mask_that_keeps_everything_or_nothing() -> None:
    images, masks = squares(2)
    assert torch.equal(exchange_backgrounds(images, torch.ones_like(masks)), images)
    assert torch.equal(exchange_backgrounds(images, torch.zeros_like(masks)), images.flip(0))


def test_images_are_left_alone_and_no_gradient_flows() -> None:
    images, masks = squares(4)
    before = images.clone()
    found = exchange_backgrounds(images.requires_grad_(), masks)
    assert not found.requires_grad and torch.equal(images, before)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"images": torch.zeros(5, 3, 32, 32, dtype=torch.uint8)}, TypeError, "images must be a float tensor"),
        ({"images": torch.zeros(3, 32, 32)}, ValueError, r"images must be of shape \(N, C, H, W\), got \(3, 32, 32\)"),
        ({"masks": torch.full((5, 1, 8, 8), 0.5)}, ValueError, "masks > 0.5 makes them of probabilities"),
        ({"masks": torch.zeros(4, 1, 8, 8)}, ValueError, r"masks must be zeros and ones, \(5, 1, h, w\)"),
        ({"margin": -1}, ValueError, "margin must be a whole number of positions"),
        ({"onto": torch.zeros(2, 1, 32, 32)}, ValueError, r"onto must be of shape \(M, 3, 32, 32\), as images, got"),
        ({"onto_masks": torch.zeros(5, 1, 8, 8)}, ValueError, "onto_masks are of onto, which is not given"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], error: type[Exception], says: str) -> None:
    images, masks = squares()
    with pytest.raises(error, match=says):
        exchange_backgrounds(**{"images": images, "masks": masks, **change})


def test_one_image_has_no_other() -> None:
    images, masks = squares(1)
    with pytest.raises(ValueError, match=r"images must be two at least.*give larger batches, or other images as onto"):
        exchange_backgrounds(images, masks)
