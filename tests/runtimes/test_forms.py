"""Every kind of model, in every form, answers as it does in torch, whatever the number of images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from vitrail.model import Model
from vitrail.model.reduction import Merging
from vitrail.runtimes.engine import open_engine
from vitrail.runtimes.export import Plan, export
from vitrail.runtimes.exported import FORMS

TOLERANCE = 1e-4  # of values of size 1 to 10: other orders of sums in float32; measured up to 1e-5

KINDS: dict[str, dict[str, Any]] = {
    "learned": {"position": "learned"},
    "none": {"position": "none"},
    "learned2d": {"position": "learned2d", "position_site": "layers", "depth": 2},
    "sincos2d": {"position": "sincos2d"},
    "relative": {"position": "relative", "position_site": "shared", "depth": 2},
    "relative_bias": {"position": "relative_bias"},
    "rotary2d": {"position": "rotary2d"},
    "average": {"pool": "avg", "class_token": False, "final_norm": "pooled"},
    "map": {"pool": "map", "class_token": False},
    "token_avg": {"pool": "token_avg", "registers": 2},
    "distilled": {"distilled": True},
    "convolutional": {"stem": "conv"},
    "hybrid": {"stem": "hybrid", "patch_size": 16, "stem_layers": (1, 1)},
    "gated": {"gated_mlp": True, "activation": "silu", "qk_norm": True, "layer_scale": 0.5, "pre_norm": True},
    "headless": {"classes": 0},
    "grey": {"channels": 1},
}
MODELS: dict[str, Callable[[], Model]] = {
    **{name: lambda choices=choices: tiny.model(**choices) for name, choices in KINDS.items()},
    "resnet": tiny.resnet,
}
QUICK = {("learned", "openvino"), ("learned", "onnx"), ("learned", "pt2")}


def cases() -> list[Any]:
    pairs = [(name, form) for name in MODELS for form in FORMS]
    return [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow, id="-".join(pair)) for pair in pairs]


@pytest.mark.parametrize(("name", "form"), cases())
def test_an_exported_model_answers_as_its_model(name: str, form: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    export(model, tmp_path / "out", Plan(form))
    for engine_name in FORMS[form].engines:
        engine = open_engine(tmp_path / "out", engine_name, threads=2)
        for count in (1, 7):
            images = tiny.images(count, model)
            expected, found = tiny.answers(model, images), engine.run(images.numpy())
            assert list(found) == list(expected)
            for output, values in expected.items():
                torch.testing.assert_close(torch.from_numpy(found[output]), values, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("form", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_at_another_image_size_and_a_fixed_number_of_images(form: str, tmp_path: Path) -> None:
    from vitrail.weights.resize import resize

    model = tiny.model()
    export(model, tmp_path / "out", Plan(form, image_size=(48, 40), batch=3))
    resized = resize(model, (48, 40))
    images = tiny.images(7, resized)  # two batches of three, and one that is filled up
    engine = open_engine(tmp_path / "out", threads=2)
    assert engine.preprocess.image_size == engine.config.image_size == (48, 40)
    expected = tiny.answers(resized, images)
    for output, values in engine.run(images.numpy()).items():
        torch.testing.assert_close(torch.from_numpy(values), expected[output], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("form", list(FORMS))
def test_merged_tokens_are_merged_in_the_export_too(form: str, tmp_path: Path) -> None:
    model = tiny.model(depth=2)
    done = export(model, tmp_path / "out", Plan(form, merge=Merging(3), max_loss=5))
    images = tiny.images(4, model)
    with torch.no_grad():
        pixels = model.preprocess.normalize(images)
        merged, plain = model(pixels, merge=Merging(3)), model(pixels)
    found = torch.from_numpy(open_engine(tmp_path / "out", threads=1).run(images.numpy())["logits"])
    torch.testing.assert_close(found, merged, rtol=1e-3, atol=1e-3)
    assert (merged - plain).abs().max() > 0.01
    assert done.exported.details["merge"] == "3"
    assert 0 <= done.exported.details["merging"]["agreement"] <= 1
