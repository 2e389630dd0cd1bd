"""The split: a sample's side is its own, whatever other files come or go."""

from pathlib import Path

import numpy as np
import pytest

from vitrail.data.samples import Samples
from vitrail.data.split import fixed_share, held_out, share_of, split_of, split_of_file

LABELS = ("cat", "dog", "emu")


def names_and_targets(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, count)
    return [f"{LABELS[target]}/{rng.integers(10**9)}.jpg" for target in targets], targets


def test_adding_files_moves_no_other_file() -> None:
    names, targets = names_and_targets(600)
    before = held_out(names[:400], targets[:400], LABELS, 0.2)
    after = held_out(names, targets, LABELS, 0.2)
    assert np.array_equal(after[:400], before)


def test_order_and_the_folder_of_the_split_do_not_matter() -> None:
    names, targets = names_and_targets(200)
    side = held_out(names, targets, LABELS, 0.3)
    order = np.random.default_rng(1).permutation(200)
    assert np.array_equal(held_out([names[i] for i in order], targets[order], LABELS, 0.3), side[order])
    assert np.array_equal(held_out([f"train/{name}" for name in names], targets, LABELS, 0.3), side)
    assert np.array_equal(held_out([name.replace("/", "\\") for name in names], targets, LABELS, 0.3), side)


def test_a_folder_for_each_patient_splits_every_class() -> None:
    """All files have the same name, so a class would be on one side if the folders above it did not count."""
    labels = [f"class{c:02d}" for c in range(12)]
    targets = np.repeat(np.arange(12), 20)
    for layout in ("{label}/p{i:02d}/scan.png", "p{i:02d}/{label}/scan.png", "shard-{i:03d}.tar:{label}/scan"):
        names = [layout.format(label=label, i=i) for label in labels for i in range(20)]
        side = held_out(names, targets, labels, 0.3)
        shares = side.reshape(12, 20).mean(axis=1)
        assert 0.05 <= shares.min() < shares.max() <= 0.6, layout
        assert abs(side.mean() - 0.3) < 0.1, layout


def test_a_folder_is_split_like_a_table_of_its_files() -> None:
    names = [f"dog/2024/{i}.jpg" for i in range(200)] + [f"cat/{i}.jpg" for i in range(200)]
    targets = np.repeat([1, 0], 200)
    side = held_out(names, targets, LABELS, 0.3)
    assert np.array_equal(held_out([f"training/{name}" for name in names], targets, LABELS, 0.3), side)
    without_class = [name.partition("/")[2] for name in names]
    assert np.array_equal(held_out(without_class, targets, LABELS, 0.3), side)
    assert not np.array_equal(held_out([f"photos/{name}" for name in names], targets, LABELS, 0.3), side)


def test_order_of_classes_does_not_matter() -> None:
    names, targets = names_and_targets(200)
    renumbered = held_out(names, 2 - targets, LABELS[::-1], 0.3)
    assert np.array_equal(renumbered, held_out(names, targets, LABELS, 0.3))


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_share_is_about_the_asked_one_in_every_class(fraction: float) -> None:
    names, targets = names_and_targets(6000)
    side = held_out(names, targets, LABELS, fraction)
    for target in range(3):
        error = 4 * (fraction * (1 - fraction) / (targets == target).sum()) ** 0.5
        assert abs(side[targets == target].mean() - fraction) < error


def test_larger_share_only_adds_to_validation() -> None:
    names, targets = names_and_targets(900)
    small, large = held_out(names, targets, LABELS, 0.1), held_out(names, targets, LABELS, 0.3)
    assert (large >= small).all()
    assert large.sum() > small.sum()


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_no_class_is_missing_on_either_side(fraction: float) -> None:
    names, targets = names_and_targets(40)
    side = held_out(names, targets, LABELS, fraction)
    for target in range(3):
        assert 0 < side[targets == target].sum() < (targets == target).sum()


def test_single_file_of_a_class_is_for_training() -> None:
    for number in range(30):
        side = held_out([f"{number}.jpg", "a.jpg", "b.jpg"], np.array([0, 1, 1]), LABELS, 0.9)
        assert not side[0]


def test_fraction_of_zero_holds_nothing_out() -> None:
    names, targets = names_and_targets(40)
    assert not held_out(names, targets, LABELS, 0.0).any()


def test_fixed_share_is_exact_and_independent_of_validation() -> None:
    names, targets = names_and_targets(3000)
    test = fixed_share(names, targets, LABELS, 0.2)
    for target in range(3):
        assert test[targets == target].sum() == round(0.2 * (targets == target).sum())
    assert abs(held_out(names, targets, LABELS, 0.2)[~test].mean() - 0.2) < 0.04


def test_splits_are_told_by_names_of_folders_and_files(tmp_path: Path) -> None:
    assert [split_of(name) for name in ("Train", " validation ", "valid", "TEST", "cats")] == [
        "train",
        "val",
        "val",
        "test",
        None,
    ]
    told = {
        "train-00000-of-00002.parquet": "train",
        "val_03.tar": "val",
        "data/test-0.parquet": "test",
        "default/validation/0000.parquet": "val",
        "test000.tar": "test",
        "testimony-0.tar": "train",
        "shard-0.tar": "train",
    }
    assert {name: split_of_file(tmp_path / name, tmp_path) for name in told} == told
    assert split_of_file(tmp_path / "test-0.tar", tmp_path / "test-0.tar") == "test"


def samples(count: int) -> Samples:
    names, targets = names_and_targets(count)
    return Samples(names, targets, LABELS, lambda index: names[index].encode())


def test_a_smaller_share_is_part_of_a_larger_one_and_all_classes_are_in_proportion() -> None:
    whole = samples(1000)
    before: set[str] = set()
    for fraction in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.9, 0.999):
        share = share_of(whole, fraction, seed=0)
        assert len(share) == max(3, round(1000 * fraction))
        assert before <= set(share.names)
        assert share.targets is not None
        counts = np.bincount(share.targets, minlength=3)
        assert (counts >= 1).all()
        assert (abs(counts - fraction * np.bincount(whole.targets)) < 1.5).all()
        assert [share.encoded(i).decode() for i in range(len(share))] == list(share.names)
        order = [list(whole.names).index(name) for name in share.names]
        assert order == sorted(order)
        before = set(share.names)
    assert share_of(whole, 1.0, seed=0) is whole


def test_a_share_depends_on_the_seed_and_on_names_alone() -> None:
    later = samples(310)
    whole = later.subset(range(300))
    chosen = set(share_of(whole, 0.1, seed=0).names)
    assert chosen == set(share_of(whole.subset(np.random.default_rng(1).permutation(300)), 0.1, seed=0).names)
    assert chosen != set(share_of(whole, 0.1, seed=1).names)
    more = set(share_of(later, 0.1, seed=0).names)  # ten files were added
    assert len(chosen - more) <= 5


def test_many_classes_of_equal_size_are_all_in_the_smallest_share() -> None:
    labels = tuple(f"class{c:02d}" for c in range(40))
    targets = np.repeat(np.arange(40), 25)
    whole = Samples([f"{labels[t]}/{i}.png" for i, t in enumerate(targets)], targets, labels, lambda i: b"")
    for fraction, n in ((0.01, 40), (0.05, 50), (0.5, 500)):
        share = share_of(whole, fraction, seed=3)
        counts = np.bincount(share.targets, minlength=40)
        assert (len(share), counts.min() >= 1, counts.max() - counts.min() <= 1) == (n, True, True)
