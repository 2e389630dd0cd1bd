"""Images kept decoded and reduced: the same views from memory and from a file, for any number of workers."""

import pickle
from pathlib import Path
from zlib import crc32 as zlib_crc32

import numpy as np
import pytest
import torch
from pictures import encode, smooth

from vitrail.data import kept as kept_module
from vitrail.data import kept_file
from vitrail.data.augment import Augment
from vitrail.data.batches import TrainBatches
from vitrail.data.kept import Form, InFile, Kept
from vitrail.data.open import open_data
from vitrail.data.policies import kept_view, train_view
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.data.store import keep_in_file, keep_in_memory
from vitrail.errors import Failure

PREPROCESS = Preprocess((32, 32))
NATIVE = Preprocess((32, 32), mode="native", patch_size=8)
CROP = Augment(crop="random_resized", scale=(0.25, 1.0), flip=0.5)


@pytest.fixture
def samples(photo_folder: Path) -> Samples:
    """40 JPEGs of 60x80."""
    found = open_data(photo_folder, val_fraction=0).train
    assert found is not None
    return found


def in_memory(samples: Samples, side: int = 40) -> Samples:
    return keep_in_memory(samples, Form(3, "bicubic", side), room=1 << 30, workers=2).samples


def in_file(samples: Samples, folder: Path, side: int = 40) -> Samples:
    return keep_in_file(samples, Form(3, "bicubic", side), folder, "photos").samples


def kept(samples: Samples) -> Kept:
    assert samples.kept is not None
    return samples.kept


@pytest.mark.parametrize(
    ("size", "expected"),
    [((60, 80), (40, 53)), ((80, 60), (53, 40)), ((40, 90), (40, 90)), ((30, 500), (30, 500)), ((41, 41), (40, 40))],
)
def test_images_are_reduced_to_the_shorter_side_and_never_enlarged(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    form = Form(3, "bicubic", 40)
    image, own = form.load(encode(smooth(*size)))
    assert image.shape == (*expected, 3)
    assert own == size
    assert form.size_of(size) == expected


def test_an_image_that_is_small_enough_is_kept_as_it_is(samples: Samples) -> None:
    whole = in_memory(samples, side=60)
    for index in range(0, 40, 7):
        for augment in (CROP, Augment(), Augment(crop="random_resized", policy="trivial")):
            view = kept_view(kept(whole), PREPROCESS, augment, seed=3, epoch=1, index=index)
            expected = train_view(samples.encoded(index), "", PREPROCESS, augment, seed=3, epoch=1, index=index)
            assert torch.equal(view, expected)


@pytest.mark.parametrize("contract", [PREPROCESS, NATIVE])
@pytest.mark.parametrize("augment", [CROP, Augment()])
def test_a_view_of_a_reduced_image_shows_the_same_part(
    samples: Samples, contract: Preprocess, augment: Augment
) -> None:
    reduced = in_memory(samples)
    for index in range(12):
        view = kept_view(kept(reduced), contract, augment, seed=0, epoch=2, index=index)
        expected = train_view(samples.encoded(index), "", contract, augment, seed=0, epoch=2, index=index)
        assert view.shape == expected.shape
        # the edges of the part are up to half a pixel of the reduced image away, which is a pixel or two of 32 here;
        # the part itself spans 100 and more grey levels, and another one differs by 30 and more
        assert (view.float() - expected.float()).abs().mean() < 5


@pytest.mark.parametrize("policy", ["none", "trivial"])
def test_memory_and_file_and_any_number_of_workers_give_the_same_batches(
    samples: Samples, tmp_path: Path, policy: str
) -> None:
    augment = Augment(crop="random_resized", scale=(0.25, 1.0), flip=0.5, policy=policy)
    ways = [(in_memory(samples), 0), (in_memory(samples), 2), (in_file(samples, tmp_path), 0)]
    ways.append((in_file(samples, tmp_path), 2))
    seen = []
    for own, workers in ways:
        batches = iter(TrainBatches(own, PREPROCESS, augment, 16, 5, workers=workers, start_step=3))
        seen.append([next(batches) for _ in range(3)])
        batches.close()
    for other in seen[1:]:
        for one, two in zip(seen[0], other, strict=True):
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.indices, two.indices)
    assert all(batch.images.is_contiguous() for batch in seen[0])


def test_a_part_of_the_samples_keeps_its_own_images(samples: Samples, tmp_path: Path) -> None:
    for own in (in_memory(samples), in_file(samples, tmp_path)):
        part = own.subset([30, 2, 17]).subset([2, 0])
        assert len(kept(part)) == 2
        assert np.array_equal(kept(part).image(0), kept(own).image(17))
        assert np.array_equal(kept(part).image(1), kept(own).image(30))
        assert kept(part).size(1) == (60, 80)


def test_a_file_is_pickled_by_its_place_and_mapped_anew(samples: Samples, tmp_path: Path) -> None:
    own = kept(in_file(samples, tmp_path))
    copied = pickle.dumps(own)
    assert len(copied) < own.nbytes / 10
    assert np.array_equal(pickle.loads(copied).image(5), own.image(5))
    assert not own.image(5).flags.writeable


def test_a_file_that_has_gone_or_is_another_one_is_told_by_its_name(samples: Samples, tmp_path: Path) -> None:
    own = kept(in_file(samples, tmp_path))
    copied = pickle.dumps(own)
    (path,) = tmp_path.glob("*.images")
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(Failure, match=r"photos-.*\.images: .*cannot be read"):
        pickle.loads(copied).image(0)
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(Failure, match=r"photos-.*\.images: other kept images"):
        pickle.loads(copied).image(0)
    assert np.array_equal(own.image(3), Form(3, "bicubic", 40).load(samples.encoded(3))[0])  # it is still mapped
    assert isinstance(own.pixels, InFile)


def test_pixels_that_were_damaged_on_the_disk_are_told_when_they_are_read(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_file, "_COMPARED", 2)  # the first and the last
    in_file(samples, tmp_path)
    (path,) = tmp_path.glob("*.images")
    damaged = bytearray(path.read_bytes())
    _, begin, height, width = kept(in_file(samples, tmp_path)).places[17, :4].tolist()
    damaged[begin + height * width] ^= 1
    path.write_bytes(damaged)
    own = kept(in_file(samples, tmp_path))
    for one, place in ((own, 17), (own.subset(np.array([3, 17])), 1), (pickle.loads(pickle.dumps(own)), 17)):
        one.image(0)
        for _ in range(2):
            with pytest.raises(
                Failure, match=r"photos-.*\.images: a kept image is damaged; remove this file and start"
            ):
                one.image(place)
    path.unlink()
    assert np.array_equal(
        kept(in_file(samples, tmp_path)).image(17), Form(3, "bicubic", 40).load(samples.encoded(17))[0]
    )


def test_an_image_is_compared_with_its_checksum_once(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, compared = kept(in_file(samples, tmp_path)).subset(np.arange(40)), []
    monkeypatch.setattr(kept_module.zlib, "crc32", lambda data: compared.append(len(data)) or zlib_crc32(data))
    for index in (5, 6, 5, 6, 5):
        own.image(index)
    assert compared == [own.image(index).size for index in (5, 6)]
