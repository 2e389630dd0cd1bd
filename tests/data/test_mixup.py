"""Mixup and cutmix: targets follow the pixels, and each step's mix is its own."""

import numpy as np
import pytest
import torch

from vitrail.data.mixup import mixup_cutmix
from vitrail.data.randomness import step_generator


def constant_batch(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are all 0, all 1, all 2 ..., each of its own class: what is mixed can be read off."""
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 16, 20).clone()
    return images, torch.eye(count)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_the_shares_of_the_pixels(mixup: float, cutmix: float) -> None:
    images, targets = constant_batch()
    for step in range(30):
        rng = step_generator(0, step, 0)
        mixed, mixed_targets = mixup_cutmix(images, targets, mixup_alpha=mixup, cutmix_alpha=cutmix, rng=rng)
        assert torch.allclose(mixed_targets.sum(1), torch.ones(6))
        expected = mixed_targets @ torch.arange(6, dtype=torch.float32)
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), expected, atol=1e-4)  # float32 means of 960 values
    assert torch.equal(images, constant_batch()[0])


def test_cutmix_pastes_one_rectangle_of_whole_pixels() -> None:
    images, targets = constant_batch()
    mixed, _ = mixup_cutmix(images, targets, mixup_alpha=0, cutmix_alpha=1.0, rng=step_generator(0, 5, 0))
    assert set(mixed[2].unique().tolist()) <= {1.0, 2.0}
    pasted = mixed[2, 0] == 1
    rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
    assert pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_both_kinds_occur_and_repeat_by_step() -> None:
    images, targets = constant_batch()

    def run(step: int) -> torch.Tensor:
        rng = step_generator(1, step, 0)
        return mixup_cutmix(images, targets, mixup_alpha=0.5, cutmix_alpha=0.5, rng=rng)[0]

    results = [run(step) for step in range(20)]
    assert all(torch.equal(result, run(step)) for step, result in enumerate(results))
    cut = [bool(np.isin(result.unique().numpy(), np.arange(6)).all()) for result in results]
    assert 3 < sum(cut) < 17


def test_switched_off_it_changes_nothing() -> None:
    images, targets = constant_batch()
    same = mixup_cutmix(images, targets, mixup_alpha=0, cutmix_alpha=0, rng=np.random.default_rng(0))
    assert same == (images, targets)
