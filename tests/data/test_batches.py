"""Batches: every sample its turn, the same batches for any number of workers, from any step, on any rank."""

import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data.augment import Augment
from vitrail.data.batches import Batch, TrainBatches, eval_batches
from vitrail.data.cache import check_images
from vitrail.data.decode import ImageError
from vitrail.data.open import open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.randomness import order
from vitrail.data.resolutions import Resolutions
from vitrail.data.samples import Samples
from vitrail.errors import UserError

PREPROCESS = Preprocess((16, 16))
AUGMENTS = {
    "plain": Augment(),
    "policy": Augment(policy="trivial"),
    "crop": Augment(crop="random_resized", policy="three"),
}


@pytest.fixture(scope="module")
def samples(photo_folder: Path) -> Samples:
    found = open_data(photo_folder, val_fraction=0).train
    assert found is not None
    return found


def stream(samples: Samples, augment: Augment, count: int = 9, **options: object) -> list[Batch]:
    batches = TrainBatches(samples, PREPROCESS, augment, batch_size=12, seed=4, **options)
    return list(islice(batches, count))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for field in ("images", "targets", "epochs", "indices"):
            assert torch.equal(getattr(a, field), getattr(b, field)), field


def test_stream_runs_through_epochs_without_short_batches(samples: Samples) -> None:
    batches = stream(samples, Augment(), count=10)  # 120 positions: three epochs of 40
    assert all(len(batch.images) == 12 for batch in batches)
    indices = torch.cat([batch.indices for batch in batches]).numpy()
    epochs = torch.cat([batch.epochs for batch in batches]).numpy()
    assert epochs.tolist() == [0] * 40 + [1] * 40 + [2] * 40
    for epoch in range(3):
        assert indices[40 * epoch : 40 * (epoch + 1)].tolist() == order(4, epoch, 40).tolist()
    for batch in batches:
        assert batch.targets.tolist() == samples.targets[batch.indices.numpy()].tolist()


@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_workers_and_start_step_and_cache_do_not_change_the_batches(samples: Samples, augment: Augment) -> None:
    alone = stream(samples, augment)
    assert_same(alone, stream(samples, augment, workers=2))
    assert_same(alone[5:], stream(samples, augment, count=4, start_step=5))
    cached = {(16, 16): check_images(samples, PREPROCESS, keep=True).cached}
    assert_same(alone, stream(samples, augment, cached=cached))
    assert_same(alone[3:], stream(samples, augment, count=6, start_step=3, workers=2, cached=cached))


@pytest.mark.parametrize("order", ["random", "rising"])
@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_steps_of_several_sizes_are_the_same_however_they_are_loaded(
    samples: Samples, augment: Augment, order: str
) -> None:
    pairs = (((16, 16), 8), ((24, 16), 8), ((8, 8), 8), ((24, 24), 4))
    resolutions = Resolutions(pairs, order, seed=4, total=9)
    alone = stream(samples, augment, resolutions=resolutions)
    assert [tuple(b.images.shape[-2:]) for b in alone] == [resolutions.at(step)[0] for step in range(9)]
    assert len({b.images.shape for b in alone}) > 2
    sizes = {size: replace(PREPROCESS, image_size=size) for size in resolutions.sizes}
    cached = {size: check_images(samples, contract, keep=True).cached for size, contract in sizes.items()}
    assert_same(alone[2:], stream(samples, augment, count=7, start_step=2, workers=2, resolutions=resolutions))
    assert_same(alone, stream(samples, augment, cached=cached, resolutions=resolutions))
    rest = stream(samples, augment, count=4, start_step=5, workers=2, cached=cached, resolutions=resolutions)
    assert_same(alone[5:], rest)


def test_every_rank_has_the_same_size_in_a_step(samples: Samples) -> None:
    resolutions = Resolutions((((16, 16), 8), ((24, 16), 8), ((8, 8), 8)), "random", seed=2, total=6)
    ranks = [stream(samples, Augment(), count=6, rank=rank, world=3, resolutions=resolutions) for rank in range(3)]
    for batches in zip(*ranks, strict=True):
        assert len({batch.images.shape for batch in batches}) == 1


@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_images_at_their_own_aspect_ratio_keep_their_targets(tmp_path: Path, augment: Augment) -> None:
    samples = _shapes(tmp_path)
    contract = Preprocess((16, 16), mode="native", patch_size=4)
    batches = TrainBatches(samples, contract, augment, batch_size=12, seed=4)
    for step, batch in enumerate(islice(batches, 3)):
        assert len(batch.groups) > 1
        _, indices = batches.positions(step)
        assert sorted(batch.indices.tolist()) == sorted(indices.tolist())
        assert batch.targets.tolist() == samples.targets[batch.indices.numpy()].tolist()
        for group in batch.groups:
            h, w = group.shape[-2:]
            assert (h % 4, w % 4) == (0, 0)
            assert (h // 4) * (w // 4) <= 16
        if augment.crop == "none":
            for group, own in zip(batch.groups, batch.indices.split([len(g) for g in batch.groups]), strict=True):
                shapes = {contract.load(samples.encoded(i)).shape for i in own.tolist()}
                assert shapes == {group.shape[1:]}
    assert_same_groups(list(islice(batches, 3)), list(islice(replace(batches, workers=2), 3)))


def test_crops_of_a_wide_image_are_wide_where_it_keeps_its_aspect_ratio(tmp_path: Path) -> None:
    wide = _shapes(tmp_path).subset([0])  # 20 high, 60 wide
    augment = Augment(crop="random_resized", scale=(0.25, 1.0), ratio=(0.9, 1.1))
    for mode, patch_size in (("native", 2), ("crop", None)):
        contract = Preprocess((24, 24), mode=mode, patch_size=patch_size)
        batch = TrainBatches(wide, contract, augment, batch_size=16, seed=0)[0]
        ratios = [group.shape[-1] / group.shape[-2] for group in batch.groups]
        assert all(2.3 < ratio < 3.9 for ratio in ratios) if mode == "native" else ratios == [1.0]


def _shapes(folder: Path) -> Samples:
    """Twelve pictures of noise in four shapes and two classes."""
    rng = np.random.default_rng(0)
    for number in range(12):
        height, width = [(20, 60), (40, 40), (50, 25), (33, 47)][number % 4]
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    found = open_data(folder, val_fraction=0).train
    assert found is not None
    return found


def assert_same_groups(first: list[Batch], second: list[Batch]) -> None:
    for a, b in zip(first, second, strict=True):
        assert len(a.groups) == len(b.groups)
        assert all(torch.equal(x, y) for x, y in zip(a.groups, b.groups, strict=True))
        assert torch.equal(a.indices, b.indices)


def test_ranks_share_out_each_global_batch(samples: Samples) -> None:
    whole = stream(samples, AUGMENTS["crop"], count=4)
    parts = [stream(samples, AUGMENTS["crop"], count=4, rank=rank, world=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step].images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part[step].indices for part in parts]), batch.indices)


def test_small_data_fill_a_batch_with_several_epochs(samples: Samples) -> None:
    few = samples.subset([0, 1, 2, 3, 4])
    batch = TrainBatches(few, PREPROCESS, Augment(), batch_size=12, seed=0)[1]
    assert batch.epochs.tolist() == [2] * 3 + [3] * 5 + [4] * 4


def test_workers_do_not_touch_the_global_random_state(samples: Samples) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    stream(samples, AUGMENTS["crop"], count=2, workers=2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_sees_every_sample_once(samples: Samples, workers: int, world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        for batch in eval_batches(samples, PREPROCESS, 7, rank=rank, world=world, workers=workers):
            assert 1 <= len(batch.images) <= 7
            assert len(batch.images) == len(batch.indices) == len(batch.targets)
            for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
                assert torch.equal(image, PREPROCESS.load(samples.encoded(index)))
            seen.extend(batch.indices.tolist())
    assert sorted(seen) == list(range(40))
    assert world > 1 or seen == list(range(40))


def test_samples_without_labels_can_be_batched(samples: Samples) -> None:
    unlabelled = Samples(samples.names, None, (), samples.read)
    batch = next(eval_batches(unlabelled, PREPROCESS, 4))
    assert batch.targets.tolist() == [-1] * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_image_stops_with_one_line_that_names_it(photo_folder: Path, tmp_path: Path, workers: int) -> None:
    for source in sorted(photo_folder.glob("*/0*.jpg")):
        target = tmp_path / source.parent.name / source.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    (tmp_path / "b" / "05.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (tmp_path / "b" / "01.jpg").rename(tmp_path / "b" / "01.png")
    damaged = open_data(tmp_path, val_fraction=0).train
    with pytest.raises(ImageError, match=r"^b/05\.jpg: ") as caught:
        list(eval_batches(damaged, PREPROCESS, 4, workers=workers))
    assert "\n" not in str(caught.value)


def test_file_that_vanishes_is_an_error_that_names_it(samples: Samples, tmp_path: Path, photo_folder: Path) -> None:
    reader = type(samples.read)(tmp_path, samples.names)
    moved = Samples(samples.names, samples.targets, samples.labels, reader)
    with pytest.raises(ImageError, match=r"^a/00\.jpg: cannot be read \(No such file"):
        next(eval_batches(moved, PREPROCESS, 4))


def test_batches_can_be_sent_to_another_process(samples: Samples) -> None:
    batches = TrainBatches(samples.subset(np.arange(10)[::-1]), PREPROCESS, Augment(), batch_size=4, seed=0)
    copy = pickle.loads(pickle.dumps(batches))
    assert torch.equal(copy[3].images, batches[3].images)


def test_batch_that_cannot_be_shared_out_is_refused(samples: Samples) -> None:
    with pytest.raises(UserError, match=r"batch_size 10 .* 4 processes"):
        TrainBatches(samples, PREPROCESS, Augment(), batch_size=10, seed=0, world=4)
