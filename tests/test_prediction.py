"""The Predictor answers for every image, in order, whatever form it comes in and whatever lies beside it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.data.decode import ImageError
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ResNetConfig, ViT, ViTConfig, build
from vitrail.prediction import Predictor, Source, expand_inputs


def make_model(channels: int = 3, classes: int = 4, position: str = "learned") -> ViT:
    """A small model with random weights, whose answers differ from image to image."""
    torch.manual_seed(0)
    size = (16, 24)
    model = ViT(
        ViTConfig(
            image_size=size,
            patch_size=8,
            channels=channels,
            classes=classes,
            width=32,
            depth=1,
            heads=2,
            mlp_width=32,
            position=position,
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.preprocess = Preprocess(size, channels=channels, mean=(0.5,) * channels, std=(0.2,) * channels)
    model.labels = ("cat", "dog", "emu", "fox")[:classes]
    return model


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A smooth random colour image of (width, height)."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of six good images, one of them below, one damaged, and a hidden one."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for i in range(5):
        picture(i, (40 + i, 30)).save(folder / f"{i}.png")
    picture(5).save(folder / "below" / "5.jpg")
    picture(9).save(folder / ".hidden.png")
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:90])
    (folder / "notes.txt").write_text("no image")
    return folder


def test_the_answer_is_the_models_softmax(images: Path) -> None:
    model = make_model()
    found = Predictor(model, device="cpu")([images / "2.png"])[0]
    pixels = model.preprocess.load((images / "2.png").read_bytes())
    with torch.no_grad():
        expected = model.eval()(model.preprocess.normalize(pixels[None]))[0].softmax(0)
    assert found.file == str(images / "2.png")
    assert [label for label, _ in found.top] == [model.labels[i] for i in expected.argsort(descending=True)]
    np.testing.assert_allclose([p for _, p in found.top], expected.sort(descending=True).values, rtol=1e-6)
    assert (found.label, found.probability) == found.top[0]


def test_every_form_of_an_image_has_the_same_answer() -> None:
    image = picture(1)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    forms = [data, image, Image.open(io.BytesIO(data)), np.asarray(image), Source("x.png", lambda: data)]
    found = Predictor(make_model(), device="cpu")(forms)
    assert len({f.probability for f in found}) == 1
    assert [f.file for f in found] == [None, None, None, None, "x.png"]


def test_a_picture_is_turned_upright_as_its_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture(3).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        by_file, by_picture, as_stored = Predictor(make_model(), device="cpu")(
            [tmp_path / "turned.png", opened, picture(3)]
        )
    assert by_file.top == by_picture.top != as_stored.top


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "PPM"])
def test_sixteen_bits_of_a_picture_are_scaled_as_those_of_its_file(mode: str) -> None:
    values = (np.asarray(picture(2).convert("L")).astype(np.uint16) << 8) + 3
    file = io.BytesIO(b"P5 40 30 65535\n" + values.astype(">u2").tobytes())
    order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    taken = Image.open(file) if mode == "PPM" else Image.frombytes(mode, (40, 30), values.astype(order).tobytes())
    predictor = Predictor(make_model(), device="cpu")
    by_file, by_picture = predictor.pixels(file.getvalue()), predictor.pixels(taken)
    assert isinstance(by_file, torch.Tensor)
    assert isinstance(by_picture, torch.Tensor)
    assert torch.equal(by_picture, by_file)
    assert by_file.float().std() > 10


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_picture_without_a_range_to_show_is_refused_as_its_file_is(mode: str) -> None:
    taken, file = picture(2).convert("L").convert(mode), io.BytesIO()
    taken.save(file, "TIFF")
    by_file, by_picture = Predictor(make_model(), device="cpu")([file.getvalue(), taken])
    assert by_picture.error == by_file.error
    assert "32-bit pixels have no fixed range to show" in (by_picture.error or "")


def test_an_array_with_alpha_or_one_channel_is_understood() -> None:
    grey = np.asarray(picture(1).convert("L"))
    alpha = np.asarray(picture(1).convert("RGBA"))
    colour = np.asarray(picture(1))
    for channels, pair in ((1, (grey, grey[:, :, None])), (3, (colour, alpha))):
        first, second = Predictor(make_model(channels), device="cpu")(pair)
        assert first.top == second.top


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_bad_files_are_reported_and_stop_nothing(images: Path, batch_size: int) -> None:
    predictor = Predictor(make_model(), device="cpu", batch_size=batch_size)
    paths = [images / "1.png", images / "bad.png", images / "nowhere.png", images / "notes.txt", images / "2.png"]
    found = predictor(paths, top=2)
    assert [f.file for f in found] == [str(p) for p in paths]
    assert [f.error is None for f in found] == [True, False, False, False, True]
    assert all(str(path) in (f.error or "") for path, f in zip(paths[1:4], found[1:4], strict=True))
    assert "No such file" in (found[2].error or "")
    assert len(found[0].top) == 2
    assert found[1].to_dict() == {"file": str(paths[1]), "error": found[1].error}
    alone = predictor([paths[4]], top=2)[0]
    assert [label for label, _ in found[4].top] == [label for label, _ in alone.top]
    assert found[4].probability == pytest.approx(alone.probability, rel=1e-5)  # another batch, other rounding


def test_images_are_read_as_they_are_needed(images: Path) -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield images / "1.png"

    stream = Predictor(make_model(), device="cpu", batch_size=2).stream(endless())
    assert next(stream).label is not None
    stream.close()
    assert taken == 2


def test_features_are_the_models(images: Path) -> None:
    model = make_model()
    predictor = Predictor(model, device="cpu", batch_size=2)
    names = [images / f"{i}.png" for i in range(5)]
    features = predictor.features(names)
    pixels = torch.stack([model.preprocess.load(name.read_bytes()) for name in names])
    with torch.no_grad():
        expected = model.features(model.preprocess.normalize(pixels))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert predictor.features([]).shape == (0, 32)
    with pytest.raises(ImageError, match=r"bad\.png"):
        predictor.features([images / "bad.png"])


def native(model: ViT) -> ViT:
    """The model with images at their own aspect ratios."""
    model.preprocess = replace(model.preprocess, mode="native", crop_fraction=1.0, patch_size=8)
    return model


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("position", ["learned", "rotary2d", "relative_bias"])
def test_images_of_mixed_shapes_are_packed_and_answered_in_order(position: str, batch_size: int) -> None:
    model = native(make_model(position=position))
    sizes = [(40, 30), (30, 40), (41, 29), (300, 20), (30, 40), (40, 30), (35, 35)]
    pictures = [picture(i, size) for i, size in enumerate(sizes)]
    loaded = [model.preprocess.resize(torch.from_numpy(np.array(p)).permute(2, 0, 1)) for p in pictures]
    assert len({image.shape for image in loaded}) == 4
    with torch.no_grad():
        alone = torch.cat([model.eval().features(model.preprocess.normalize(image[None])) for image in loaded])
        shares = model.classify(alone).softmax(dim=1)
    predictor = Predictor(model, device="cpu", batch_size=batch_size)
    # sums in another order: rounding of values near 1, as between any two batch sizes
    np.testing.assert_allclose(predictor.features(pictures), alone, rtol=1e-4, atol=1e-5)
    found = predictor(pictures, top=4)
    for prediction, row in zip(found, shares, strict=True):
        assert prediction.label == model.labels[int(row.argmax())]
        np.testing.assert_allclose([dict(prediction.top)[label] for label in model.labels], row, rtol=1e-3, atol=1e-6)


def test_a_bad_file_among_images_of_mixed_shapes_stops_nothing(images: Path) -> None:
    predictor = Predictor(native(make_model()), device="cpu")
    picture(7, (20, 90)).save(images / "tall.png")
    names = [images / "1.png", images / "bad.png", images / "tall.png", images / "2.png"]
    found = predictor(names)
    assert [f.error is None for f in found] == [True, False, True, True]
    for name, together in zip(names, found, strict=True):
        alone = predictor([name])[0]
        assert (together.label, together.error) == (alone.label, alone.error)
        assert together.probability == (None if together.error else pytest.approx(alone.probability, rel=1e-4))


def test_what_cannot_take_images_of_mixed_shapes_is_refused() -> None:
    model = make_model()
    model.preprocess = Preprocess((16, 24), mode="native", patch_size=4)
    with pytest.raises(UserError, match="patch_size 4 is not the model's 8"):
        Predictor(model, device="cpu")
    resnet = build(ResNetConfig(image_size=(32, 32), classes=2, layers=(1, 1, 1, 1)))
    resnet.preprocess = Preprocess((32, 32), mode="native", patch_size=8)
    with pytest.raises(UserError, match="a ResNet has none: take crop, squash or pad"):
        Predictor(resnet, device="cpu")


def test_a_model_without_a_head_gives_features_only() -> None:
    predictor = Predictor(make_model(classes=0), device="cpu")
    assert predictor.features([picture(0)]).shape == (1, 32)
    with pytest.raises(UserError, match="no head"):
        predictor([picture(0)])


def test_what_is_no_image_and_no_device_is_refused() -> None:
    predictor = Predictor(make_model(), device="cpu")
    with pytest.raises(UserError, match="not float64"):
        predictor([np.random.default_rng(0).random((3, 30, 40))])
    with pytest.raises(UserError, match="not int"):
        predictor([3])
    with pytest.raises(UserError, match="device 'tpu'"):
        Predictor(make_model(), device="tpu")
    model = make_model()
    model.preprocess = None
    with pytest.raises(UserError, match="has no preprocess"):
        Predictor(model)


def test_a_model_is_taken_by_its_name(tmp_path: Path) -> None:
    vitrail.save(make_model(), tmp_path / "m")
    by_name, by_model = (vitrail.Predictor(m, device="cpu") for m in (tmp_path / "m", make_model()))
    assert by_name([picture(0)]) == by_model([picture(0)])


def test_folders_patterns_and_files_are_expanded_in_order(images: Path) -> None:
    def names(*inputs: str, labelled: bool = False) -> list[str]:
        return [source.name.removeprefix(f"{images}/") for source in expand_inputs(inputs, labelled=labelled)]

    everything = ["0.png", "1.png", "2.png", "3.png", "4.png", "bad.png", "below/5.jpg"]
    assert names(str(images)) == everything
    assert names(f"{images}/[12].png", f"{images}/0.png") == ["1.png", "2.png", "0.png"]
    assert names(f"{images}/**/*.jpg") == ["below/5.jpg"]
    assert names(f"{images}/notes.txt", f"{images}/nowhere.png") == ["notes.txt", "nowhere.png"]
    with pytest.raises(UserError, match="no file fits"):
        names(f"{images}/*.webp")
    (images / "empty").mkdir()
    with pytest.raises(UserError, match="no images found"):
        names(str(images / "empty"))


def test_data_sets_are_expanded_with_their_labels(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(2):
            picture(i).save(tmp_path / "data" / label / f"{i}.png")
    found = expand_inputs([str(tmp_path / "data")], labelled=True)
    assert [(s.name, s.label) for s in found] == [
        ("ant/0.png", "ant"),
        ("ant/1.png", "ant"),
        ("bee/0.png", "bee"),
        ("bee/1.png", "bee"),
    ]
    assert found[2].read() == (tmp_path / "data" / "bee" / "0.png").read_bytes()
    digits = expand_inputs(["digits"])
    assert len(digits) == 1797
    assert {s.label for s in digits} == set("0123456789")
