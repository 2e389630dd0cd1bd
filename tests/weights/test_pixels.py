"""What a model sees in timm or transformers, it sees here: the same pixels, for every way of resizing they describe."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from timm.data import create_transform, resolve_data_config

from data.pictures import encode, smooth
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.weights.formats.pixels import from_processor, from_timm, off_centre, to_processor, to_timm

# wide, tall, square, smaller than the result, and rests of every remainder
SHAPES = [(60, 90), (91, 60), (64, 64), (37, 52), (45, 301), (230, 31), (53, 54), (55, 60), (99, 71)]
IMAGES = [smooth(*shape, seed=i) for i, shape in enumerate(SHAPES)]

# Whoever resizes does it in two passes that round to whole grey levels, with weights in fixed point, which torch keeps
# shorter than Pillow does: a value near a half is rounded the other way now and then, and rarely twice. An image moved
# by one pixel differs by 3 levels and more.
ONE_LEVEL, TWO_LEVELS = 1.001, 2.001
RARELY = 0.005


def ours(preprocess: Preprocess, image: Any) -> torch.Tensor:
    """(C, h, w) as the model takes it, from a file."""
    return preprocess.normalize(preprocess.load(encode(image))[None])[0]


def levels(preprocess: Preprocess, found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """The differences of normalised images, in grey levels of the image before."""
    assert found.shape == expected.shape
    return (found - expected).abs() * 255 * torch.tensor(preprocess.std)[:, None, None]


def agree(preprocess: Preprocess, image: Any, expected: torch.Tensor, *, pillow: bool) -> bool:
    """Whether our pixels are the ``expected`` ones, which Pillow or torch has resized."""
    difference = levels(preprocess, ours(preprocess, image), expected)
    if not pillow:
        return float(difference.max()) <= ONE_LEVEL
    return float(difference.max()) <= TWO_LEVELS and float((difference > ONE_LEVEL).float().mean()) < RARELY


TIMM: list[dict[str, Any]] = [
    {},
    {"crop_pct": 0.9, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    {"crop_pct": 1.0, "interpolation": "bilinear"},
    {"crop_pct": 0.95, "input_size": (3, 45, 45)},
    {"crop_pct": 0.3},
    {"crop_pct": 1.0, "input_size": (3, 40, 56)},
    {"crop_pct": 0.83, "input_size": (3, 63, 47), "interpolation": "bilinear"},
    {"crop_mode": "squash", "crop_pct": 1.0},
    {"crop_mode": "squash", "crop_pct": 0.9, "interpolation": "bilinear"},
    {"crop_mode": "squash", "crop_pct": 0.85, "input_size": (3, 39, 61)},
    {"crop_mode": "border", "crop_pct": 1.0},
    {"crop_mode": "border", "crop_pct": 0.8},
    {"crop_mode": "border", "crop_pct": 0.93, "input_size": (3, 41, 58), "interpolation": "bilinear"},
]


def timm_cfg(changes: dict[str, Any]) -> dict[str, Any]:
    return {"input_size": (3, 48, 48), **changes}


@pytest.mark.parametrize("changes", TIMM, ids=str)
def test_pixels_are_timms(changes: dict[str, Any]) -> None:
    cfg = timm_cfg(changes)
    preprocess = from_timm(cfg, cfg["input_size"][1:], 3)
    transform = create_transform(**resolve_data_config(pretrained_cfg=cfg))
    for image in IMAGES:
        assert agree(preprocess, image, transform(Image.fromarray(image)), pillow=True), image.shape


@pytest.mark.parametrize("changes", TIMM, ids=str)
def test_contract_survives_timms_keys(changes: dict[str, Any]) -> None:
    cfg = timm_cfg(changes)
    preprocess = from_timm(cfg, cfg["input_size"][1:], 3)
    written = json.loads(json.dumps(to_timm(preprocess)))
    assert from_timm(written, preprocess.image_size, 3) == preprocess
    resolved = resolve_data_config(pretrained_cfg=cfg)
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in written.items()} == resolved


HALF = [0.5, 0.5, 0.5]
PROCESSORS: list[dict[str, Any]] = [
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}},
    {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 41, "width": 58}, "resample": 3},
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}, "do_normalize": False},
    {"image_processor_type": "ViTImageProcessor", "size": 48, "rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]},
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 48, "resample": 2, "image_mean": HALF, "image_std": HALF},
    {"image_processor_type": "DeiTImageProcessor", "size": {"height": 55, "width": 55}, "crop_size": 48},
    {"feature_extractor_type": "DeiTFeatureExtractor", "size": 56, "crop_size": 49, "do_center_crop": True},
    {"image_processor_type": "DeiTImageProcessor", "size": [43, 60], "do_center_crop": False},
    {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 56},
        "crop_size": {"height": 49, "width": 49},
    },
    {"image_processor_type": "BitImageProcessorFast", "size": {"shortest_edge": 45}, "crop_size": 45, "resample": 2},
    {"feature_extractor_type": "CLIPFeatureExtractor", "size": 47, "crop_size": 44, "do_center_crop": True},
    {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 51}, "crop_size": 50, "image_std": HALF},
    {"image_processor_type": "CLIPImageProcessor", "size": 60, "default_to_square": True, "crop_size": 45},
    {"image_processor_type": "SiglipImageProcessor", "size": {"height": 48, "width": 48}, "crop_size": None},
    {"image_processor_type": "SiglipImageProcessor", "size": {"height": 50, "width": 39}, "image_mean": 0.4},
    {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 48, "width": 48}, "do_pad": None},
]


def write(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


def theirs(folder: Path, image: Any, backend: str) -> torch.Tensor:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend=backend)
    return torch.as_tensor(processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("values", PROCESSORS, ids=str)
def test_pixels_are_those_of_transformers(tmp_path: Path, values: dict[str, Any]) -> None:
    preprocess = from_processor(values, 3)
    write(tmp_path, values)
    for backend in ("torchvision", *(["pil"] if "DINOv3" not in str(values) else [])):
        for image in IMAGES:
            expected = theirs(tmp_path, image, backend)
            assert agree(preprocess, image, expected, pillow=backend == "pil"), (backend, image.shape)


CONTRACTS = [
    (Preprocess((48, 48), mode="squash"), "ViTImageProcessor", "ViTImageProcessor"),
    (Preprocess((40, 56), mode="squash", interpolation="bilinear"), "SiglipImageProcessor", "SiglipImageProcessor"),
    (Preprocess((48, 48), mode="squash", crop_fraction=0.9), "ViTImageProcessor", "DeiTImageProcessor"),
    (Preprocess((41, 41), crop_fraction=0.83, crop_rounding="down"), "ViTImageProcessor", "BitImageProcessor"),
    (Preprocess((48, 48), crop_fraction=1.0, crop_rounding="down"), "CLIPImageProcessor", "CLIPImageProcessor"),
    (Preprocess((48, 48), mode="squash"), "DINOv3ViTImageProcessor", "ViTImageProcessor"),
    (
        Preprocess((48, 48), mode="squash", interpolation="bilinear"),
        "DINOv3ViTImageProcessorFast",
        "DINOv3ViTImageProcessor",
    ),
]


@pytest.mark.parametrize(("preprocess", "kind", "named"), CONTRACTS, ids=str)
def test_transformers_opens_our_contract_and_gives_our_pixels(
    tmp_path: Path, preprocess: Preprocess, kind: str, named: str
) -> None:
    values = to_processor(preprocess, kind)
    write(tmp_path, values)
    assert values["image_processor_type"] == named
    assert off_centre(preprocess, "transformers") is None
    for image in IMAGES:
        expected = theirs(tmp_path, image, "torchvision")
        assert agree(preprocess, image, expected, pillow=False), image.shape
        assert agree(from_processor(values, 3), image, expected, pillow=False), image.shape


def test_grey_contract_takes_grey_pictures_in_transformers(tmp_path: Path) -> None:
    preprocess = Preprocess((20, 20), channels=1, mode="squash", mean=(0.1307,), std=(0.3081,))
    write(tmp_path, to_processor(preprocess, "ViTImageProcessor"))
    image = smooth(28, 28, channels=1)
    assert agree(preprocess, image, theirs(tmp_path, image[:, :, 0], "torchvision"), pillow=False)
    assert from_processor(to_processor(preprocess, "ViTImageProcessor"), 1) == preprocess


def test_average_colour_stands_for_a_grey_model() -> None:
    assert from_processor({"image_mean": [0.2, 0.4, 0.6]}, 1).mean == pytest.approx((0.4,))
    assert from_timm({"std": (0.2, 0.3, 0.4)}, (8, 8), 1).std == pytest.approx((0.3,))


def test_file_that_names_no_processor_is_read_as_the_models_own() -> None:
    assert from_processor({"size": 32}, 3).mode == "squash"
    clip = from_processor({"size": 32, "crop_size": 32}, 3, "CLIPImageProcessor")
    assert (clip.mode, clip.crop_fraction, clip.image_size) == ("crop", 1.0, (32, 32))


def test_crop_that_another_library_begins_a_pixel_beside_is_said() -> None:
    down = Preprocess((48, 48), crop_fraction=0.9, crop_rounding="down")
    even = Preprocess((48, 48), crop_fraction=0.9)
    assert "crop_rounding even" in (off_centre(down, "timm") or "")
    assert "crop_rounding down" in (off_centre(even, "transformers") or "")
    assert off_centre(down, "transformers") is off_centre(even, "timm") is None
    image = smooth(48, 56)  # resized to 53 x 61: the crop begins at 2.5 and 6.5
    assert agree(even, image, ours(down, image), pillow=False)
    image = smooth(48, 54)  # 53 x 59: at 2.5 and 5.5
    assert levels(even, ours(even, image), ours(down, image)).max() > 3 * ONE_LEVEL
    for fraction, said in ((48 / 55, True), (48 / 53, False), (1.0, False)):  # rests of 7, 5 and 0
        squashed = Preprocess((48, 48), mode="squash", crop_fraction=fraction)
        assert (off_centre(squashed, "transformers") is not None) == said


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"crop_mode": "five"}, "crop_mode = 'five'"),
        ({"interpolation": "random"}, "interpolation = 'random'"),
        ({"crop_pct": 1.1}, "crop_fraction 1.1"),
        ({"crop_pct": "most"}, "crop_pct = 'most'"),
        ({"mean": ["grey"] * 3}, "mean = "),
        ({"std": (0.5, 0, 0.5)}, "std"),
    ],
)
def test_what_timm_asks_for_in_vain_is_refused_by_key(cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        from_timm(cfg, (32, 32), 3)
    assert "\n" not in str(error.value)


CLIP = {"image_processor_type": "CLIPImageProcessor"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "image_processor_type = 'ConvNextImageProcessor'"),
        ({"image_processor_type": 3}, "image_processor_type = '3'"),
        ({"do_resize": False}, "do_resize = False"),
        ({"do_rescale": False}, "do_rescale = False"),
        ({"do_pad": True}, "do_pad = True"),
        ({**CLIP, "use_square_size": True}, "use_square_size = True"),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, "rescale_offset = True"),
        ({"rescale_factor": "half"}, "rescale_factor = 'half'"),
        ({"resample": 1}, "resample = 1"),
        ({"resample": ["bicubic"]}, "resample = "),
        ({"image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 3}, "resample = 3.*overshoots"),
        ({"size": {"longest_edge": 224}}, "size = "),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size = "),
        ({"size": None}, "size = None"),
        ({"image_mean": None}, "image_mean = None"),
        ({"do_resize": None}, "do_resize = None"),
        ({**CLIP, "crop_size": None}, "crop_size is missing"),
        ({"size": "large"}, "size = 'large'"),
        ({"size": {"height": 0, "width": 3}}, "size = "),
        ({"size": {"shortest_edge": 224}}, "do_center_crop = False"),
        ({"do_center_crop": True}, "crop_size is missing"),
        ({**CLIP, "size": 200}, "crop_size = 224.*black border"),
        ({**CLIP, "crop_size": {"height": 224, "width": 200}}, "crop_size = .*square"),
        ({**CLIP, "crop_size": {"shortest_edge": 200}}, "crop_size = "),
        ({**CLIP, "size": {"height": 224, "width": 300}}, "crop_size = 224.*share"),
        ({"image_mean": [0.5, "grey", 0.5]}, "image_mean = "),
        ({"image_std": 0}, "std"),
        ({"image_mean": 10**400}, "image_mean = 1000"),
        ({"image_mean": []}, "image_mean = "),
        ({"rescale_factor": 10**400}, "rescale_factor = 1000"),
        ({"size": 10**400}, "size = 1000"),
        ({"image_processor_type": "x\n" * 10**6}, "image_processor_type = "),
    ],
)
def test_what_transformers_asks_for_in_vain_is_refused_by_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        from_processor(values, 3)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("preprocess", "kind", "message"),
    [
        (Preprocess((32, 32), mode="pad"), "ViTImageProcessor", "mode 'pad'"),
        (Preprocess((32, 48)), "ViTImageProcessor", "32 x 48"),
        (Preprocess((32, 32)), "SwinImageProcessor", "SwinImageProcessor"),
    ],
)
def test_contract_that_no_processor_has_is_refused(preprocess: Preprocess, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_processor(preprocess, kind)


def test_module_imports_no_torch() -> None:
    code = "import sys, vitrail.weights.formats.pixels; assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
