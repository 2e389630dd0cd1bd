"""Stochastic depth that skips the work it drops gives what computing and dropping it would."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from positions_cases import PLACED, randomised, small
from vitrail.model import ViT
from vitrail.model.drop_path import DropPath, skip_dropped


def test_a_branch_is_added_to_as_many_images_each_time_and_to_each_as_often() -> None:
    drop_path = DropPath(0.3)
    x = torch.randn(10, 4)
    total = torch.zeros(10)
    for seed in range(400):
        torch.manual_seed(seed)
        added = drop_path.add_to_some(x, lambda some, images: torch.ones_like(some)) - x
        kept = added[:, 0] > 0.5
        assert kept.sum() == 7
        torch.testing.assert_close(added[kept], torch.full((7, 4), 10 / 7), atol=1e-5, rtol=0)
        total += added[:, 0]
    # the mean of 400 draws of 10/7 with odds of 0.7 is 1 with a deviation of 0.033
    assert (total / 400 - 1).abs().max() < 0.15


@pytest.mark.parametrize("image", range(3))
def test_one_image_is_never_left_without_its_branch(image: int) -> None:
    torch.manual_seed(image)
    x = torch.randn(1, 5)
    torch.testing.assert_close(DropPath(0.9).add_to_some(x, lambda some, images: 2 * some), 3 * x)


CHOICES: list[dict[str, Any]] = [
    *({"position": kind, "position_site": site, "registers": 1} for kind, site in PLACED),
    {"layer_scale": 0.5, "qk_norm": True},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("patch_drop", [0.0, 0.4])
@torch.no_grad()
def test_kept_images_get_what_they_get_by_themselves(choice: dict[str, Any], patch_drop: float) -> None:
    if patch_drop and choice.get("position", "").startswith("relative"):
        pytest.skip("these positions go with whole images alone")
    model = randomised(small(drop_path=0.5, depth=2, **choice)).train()
    skip_dropped(model, True)
    images = torch.randn(6, 3, 12, 20)
    drawn: list[Tensor] = []
    usual = DropPath.add_to_some

    def watched(self: DropPath, x: Tensor, branch: Any) -> Tensor:
        def seen(some: Tensor, chosen: Tensor) -> Tensor:
            drawn.append(chosen)
            return branch(some, chosen)

        return usual(self, x, seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DropPath, "add_to_some", watched)
        torch.manual_seed(4)
        found = model.features(images, patch_drop=patch_drop)
    assert [len(chosen) for chosen in drawn] == [3, 3]  # the first block drops nothing
    # the same by masks: every branch computed, those of the others multiplied by 0
    masks = iter([torch.zeros(6, 1, 1).index_fill(0, chosen, 2.0) for chosen in drawn])

    def masked(self: DropPath, x: Tensor, lengths: Any = ()) -> Tensor:
        return x * next(masks) if self.probability else x

    skip_dropped(model, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DropPath, "forward", masked)
        torch.manual_seed(4)
        expected = model.features(images, patch_drop=patch_drop)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("whole_last_block")
def test_no_work_is_done_for_what_is_dropped() -> None:
    model = randomised(small(drop_path=0.5, depth=2)).train()
    images = torch.randn(8, 3, 12, 20)

    def work(skip: bool) -> int:
        skip_dropped(model, skip)
        with FlopCounterMode(display=False) as counter:
            model(images).sum().backward()
        return counter.get_total_flops()

    # half of the images in one of two blocks, beside the stem and the head
    assert 0.7 < work(True) / work(False) < 0.8


def test_evaluation_and_packed_images_are_not_changed() -> None:
    model = randomised(small(drop_path=0.5))
    images = torch.randn(4, 3, 12, 20)
    expected = model(images)
    skip_dropped(model, True)
    assert torch.equal(model(images), expected)
    packed = [images, torch.randn(2, 3, 8, 8)]
    outputs = []
    for skip in (False, True):
        skip_dropped(model, skip)
        torch.manual_seed(0)
        outputs.append(model.train()(packed))
    assert torch.equal(*outputs)


def test_gradients_reach_every_parameter_under_autocast() -> None:
    model = ViT(small(drop_path=0.5, layer_scale=0.1)).train()
    randomise = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=randomise) * 0.3
    skip_dropped(model, True)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(6, 3, 12, 20)).square().sum().backward()
    missed = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missed == []
