"""Mode native: each image at its own aspect ratio, in whole patches, at a budget of tokens."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encode, smooth
from PIL import Image

from vitrail.data.batches import eval_batches
from vitrail.data.cache import check_images
from vitrail.data.decode import decode
from vitrail.data.open import open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.resize import resample
from vitrail.errors import UserError

SHAPES = [(60, 90), (90, 60), (64, 64), (17, 200), (300, 20), (5, 7), (1, 1), (1, 400), (427, 640), (270, 480)]
NATIVE = Preprocess((64, 64), mode="native", patch_size=8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("image_size", "patch_size"), [((64, 64), 8), ((224, 224), 16), ((48, 96), 16), ((14, 14), 14)]
)
def test_every_shape_becomes_whole_patches_within_the_budget(
    shape: tuple[int, int], image_size: tuple[int, int], patch_size: int
) -> None:
    preprocess = Preprocess(image_size, mode="native", patch_size=patch_size)
    size = preprocess.size_of(shape)
    most = image_size[0] * image_size[1] // patch_size**2
    assert all(side % patch_size == 0 and side > 0 for side in size)
    assert size[0] * size[1] // patch_size**2 <= most
    assert preprocess.size_of(shape[::-1]) == size[::-1] or most < 4  # one or two patches cannot be turned round
    for image in (
        preprocess.resize(torch.randint(0, 256, (3, *shape)).byte()),
        preprocess.load(encode(smooth(*shape))),
    ):
        assert image.shape == (3, *size)
        assert image.dtype == torch.uint8
        assert image.is_contiguous()


def test_photographs_keep_their_aspect_ratio_and_use_the_budget() -> None:
    preprocess = Preprocess((224, 224), mode="native", patch_size=16)
    random = np.random.default_rng(0)
    errors, shares = [], []
    for height, width in random.integers(100, 2000, (2000, 2)).tolist():
        if max(height / width, width / height) > 3:
            continue
        h, w = preprocess.size_of((height, width))
        errors.append(abs(math.log(h * width / (w * height))))
        shares.append(h * w / 224**2)
    assert max(errors) < 0.1  # squashed to a square it would be up to log 3 = 1.1
    assert np.median(errors) < 0.03
    assert min(shares) > 0.85
    assert np.mean(shares) > 0.95


@pytest.mark.parametrize("most", [4, 16, 36, 64, 100])
@pytest.mark.parametrize("ratio", [1, 4 / 3, 3 / 2, 16 / 9, 2, 21 / 9, 3, 5, 1 / 3])
def test_no_other_grid_is_clearly_nearer_to_the_image_and_its_budget(most: int, ratio: float) -> None:
    side = math.isqrt(most)
    preprocess = Preprocess((side * 8, side * 8), mode="native", patch_size=8)
    height, width = preprocess.size_of((1000, round(1000 * ratio)))

    def loss(h: int, w: int) -> float:
        return abs(math.log(h * ratio / w)) + 0.5 * math.log(most / (h * w))

    best = min(loss(h, w) for h in range(1, most + 1) for w in range(1, most // h + 1))
    assert loss(height // 8, width // 8) <= best + 0.02


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((224, 224), (224, 224)),
        ((30, 30), (224, 224)),  # enlarged as large ones are reduced
        ((480, 640), (192, 256)),
        ((448, 112), (448, 112)),
        ((2000, 3), (16 * 196, 16)),
        ((3, 2000), (16, 16 * 196)),
    ],
)
def test_sizes_are_those_worked_out_by_hand(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert Preprocess((224, 224), mode="native", patch_size=16).size_of(shape) == size


def test_an_image_is_neither_cut_nor_padded() -> None:
    image = torch.from_numpy(smooth(61, 93)).permute(2, 0, 1)
    assert torch.equal(NATIVE.resize(image), resample(image, NATIVE.size_of((61, 93)), "bicubic"))
    fits = image[:, :56, :72]
    assert torch.equal(NATIVE.resize(fits), fits)  # 7 x 9 patches of 64: resized to itself


def test_photograph_decoded_reduced_keeps_its_place() -> None:
    data = encode(smooth(321, 433), "JPEG", quality=98, subsampling=0)
    preprocess = Preprocess((32, 32), mode="native", patch_size=8)
    reduced, full = preprocess.load(data), preprocess.resize(decode(data))
    assert reduced.shape == full.shape
    assert (reduced.float() - full.float()).abs().mean() < 0.3


def test_the_other_modes_have_one_size() -> None:
    for mode in ("crop", "squash", "pad"):
        preprocess = Preprocess((64, 48), mode=mode)
        assert preprocess.size_of((31, 97)) == (64, 48)
        assert not preprocess.varies
    assert NATIVE.varies
    assert replace(NATIVE, mode="squash") == Preprocess((64, 64), mode="squash")  # the patch size means nothing there


def test_contract_survives_json() -> None:
    preprocess = replace(NATIVE, interpolation="bilinear", mean=(0.1, 0.2, 0.3))
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "patch_size None: mode native needs"),
        ({"patch_size": 0}, "patch_size 0: mode native needs"),
        ({"patch_size": "16"}, "patch_size '16': mode native needs"),
        ({"patch_size": 10}, "image_size.*whole patches, and 10 does not divide it"),
        ({"patch_size": 128}, "128 does not divide"),
        ({"patch_size": 8, "crop_fraction": 0.9}, "crop_fraction 0.9: mode native cuts nothing off"),
    ],
)
def test_impossible_contract_is_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess.from_dict({"image_size": [64, 64], "mode": "native", **values})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of five noisy images, of three shapes in turn."""
    random = np.random.default_rng(0)
    for label in ("ant", "bee"):
        (tmp_path / label).mkdir()
        for i, shape in enumerate([(40, 60), (60, 40), (50, 50), (40, 60), (50, 50)]):
            Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(tmp_path / label / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_evaluation_hold_every_image_once_in_groups_of_a_size(folder: Path, workers: int) -> None:
    samples = open_data(folder, val_fraction=0).train
    assert samples is not None
    assert samples.targets is not None
    seen = []
    for batch in eval_batches(samples, NATIVE, 4, workers=workers):
        images = [image for group in batch.groups for image in group]
        assert len({group.shape[1:] for group in batch.groups}) == len(batch.groups) > 1
        for image, index, target in zip(images, batch.indices.tolist(), batch.targets.tolist(), strict=True):
            assert torch.equal(image, NATIVE.load(samples.encoded(index)))
            assert target == samples.targets[index]
            seen.append(index)
    assert sorted(seen) == list(range(10))


def test_images_of_several_sizes_are_checked_and_not_kept(folder: Path) -> None:
    samples = open_data(folder, val_fraction=0).train
    assert samples is not None
    checked = check_images(samples, NATIVE, keep=True)
    assert checked.cached is None
    assert len(checked.samples) == 10
    (folder / "bee" / "2.png").write_bytes(b"\x89PNG not quite")
    with pytest.raises(UserError, match=r"bee/2\.png"):
        check_images(samples, NATIVE, keep=True)
