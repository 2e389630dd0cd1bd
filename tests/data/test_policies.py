"""The training view of one image: a function of seed, epoch and sample that leaves all other randomness alone."""

import numpy as np
import pytest
import torch
from pictures import encode, smooth

from vitrail.data.augment import Augment
from vitrail.data.decode import decode
from vitrail.data.policies import crop_box, train_view
from vitrail.data.preprocess import Preprocess
from vitrail.data.randomness import stream
from vitrail.data.resize import resample

PREPROCESS = Preprocess((32, 32))


def view(augment: Augment, data: bytes, *, seed: int = 0, epoch: int = 0, index: int = 0) -> torch.Tensor:
    return train_view(data, "x", PREPROCESS, augment, seed=seed, epoch=epoch, index=index)


@pytest.mark.parametrize("policy", ["randaugment", "trivial", "three"])
@pytest.mark.parametrize("channels", [1, 3])
def test_policy_is_a_function_of_seed_epoch_and_sample(policy: str, channels: int) -> None:
    preprocess = Preprocess((24, 32), channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    data, augment = encode(smooth(40, 50)), Augment(policy=policy)

    def views() -> list[torch.Tensor]:
        keys = [(s, e, i) for s in (0, 1) for e in (0, 1) for i in range(6)]
        return [train_view(data, "x", preprocess, augment, seed=s, epoch=e, index=i) for s, e, i in keys]

    first = views()
    state = torch.random.get_rng_state()
    torch.rand(3)
    second = views()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({a.numpy().tobytes() for a in first}) > 4
    assert all(a.dtype == torch.uint8 and a.shape == (channels, 24, 32) for a in first)
    torch.random.set_rng_state(state)


def test_policy_leaves_torchs_own_randomness_alone() -> None:
    data = encode(smooth(40, 50))
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    view(Augment(policy="trivial", crop="random_resized"), data)
    assert torch.equal(torch.rand(4), expected)


def test_without_augmentation_training_sees_what_evaluation_sees() -> None:
    data = encode(smooth(40, 50))
    assert torch.equal(view(Augment(), data, epoch=3), PREPROCESS.load(data))


def test_random_crop_is_a_part_of_the_image_and_differs_by_epoch() -> None:
    data = encode(smooth(90, 120))
    augment = Augment(crop="random_resized")
    seen = {view(augment, data, epoch=epoch).numpy().tobytes() for epoch in range(8)}
    assert len(seen) == 8
    top, left, height, width = crop_box((90, 120), augment.scale, augment.ratio, stream(0, "crop", 2, 0))
    part = decode(data)[:, top : top + height, left : left + width]
    assert torch.equal(view(augment, data, epoch=2), resample(part, (32, 32), "bicubic"))


def test_crop_of_a_large_photograph_is_cut_from_a_reduced_decoding_at_the_same_place() -> None:
    data = encode(smooth(600, 800), "JPEG", quality=95)
    augment = Augment(crop="random_resized", scale=(0.2, 1.0))
    for epoch in range(5):
        top, left, height, width = crop_box((600, 800), augment.scale, augment.ratio, stream(0, "crop", epoch, 0))
        full = resample(decode(data)[:, top : top + height, left : left + width], (32, 32), "bicubic")
        assert (view(augment, data, epoch=epoch).float() - full.float()).abs().mean() < 1.5


def test_crop_boxes_lie_inside_and_have_the_asked_areas_and_ratios() -> None:
    boxes = np.array([crop_box((300, 400), (0.08, 1.0), (3 / 4, 4 / 3), stream(0, "crop", 0, i)) for i in range(2000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    area, ratio = height * width / 120_000, width / height
    assert area.min() > 0.075
    assert 0.08 < np.quantile(area, 0.05) < 0.14
    assert area.max() > 0.9
    assert ratio.min() > 0.73
    assert ratio.max() < 1.37
    assert len(np.unique(top)) > 100


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_crop_of_an_extreme_image_is_never_empty(size: tuple[int, int]) -> None:
    for index in range(50):
        top, left, height, width = crop_box(size, (0.08, 1.0), (3 / 4, 4 / 3), stream(0, "crop", 0, index))
        assert 1 <= height <= size[0] - top
        assert 1 <= width <= size[1] - left
    data = encode(smooth(*size))
    assert view(Augment(crop="random_resized"), data).shape == (3, 32, 32)
