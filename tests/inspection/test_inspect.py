"""``inspect``: everything that can be seen of a model and pictures, in one call, and as files."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.data.preprocess import Preprocess
from vitrail.inspection import inspect as module
from vitrail.inspection.attention import attention_map, mean_distances, rollout
from vitrail.inspection.look import look
from vitrail.inspection.mistakes import mistakes
from vitrail.inspection.pictures import Asked, questions
from vitrail.inspection.relevance import relevance
from vitrail.model import Model, ResNet, ResNetConfig, ViT, ViTConfig
from vitrail.prediction import Source

HOSTILE = "</script><img src=x onerror=alert(1)>$x$\udcff"


def shaken(model: Model, size: tuple[int, int] = (16, 16), **contract: object) -> Model:
    """With weights that are nowhere 0, and a pixel contract."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.preprocess = Preprocess(
        size,
        channels=model.config.channels,
        mean=(0.5,) * model.config.channels,
        std=(0.5,) * model.config.channels,
        **contract,
    )
    return model.eval()


def a_vit(**changes: object) -> ViT:
    config = ViTConfig(image_size=(16, 16), patch_size=4, classes=3, width=16, depth=2, heads=2, mlp_width=16)
    contract = changes.pop("contract", {})
    model = shaken(ViT(config.with_changes(**changes)), **contract)
    model.labels = ("cat", "dog", "owl")[: model.config.classes]
    return model


@pytest.fixture
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(3)]


def tensors(model: Model, picture: np.ndarray) -> torch.Tensor:
    contract = model.preprocess
    pixels = contract.resize(torch.from_numpy(picture).permute(2, 0, 1))
    return contract.normalize(pixels[None])


def test_one_call_gives_what_the_single_functions_give(pictures: list[np.ndarray]) -> None:
    model = a_vit()
    found = vitrail.inspect(model, pictures, name="mine", layers=(0, -1))
    images = tensors(model, pictures[0])
    seen = look(model, images)
    first = found.pictures[0]
    ranked = seen.logits[0].argsort(descending=True).tolist()
    labels = [model.labels[i] for i in ranked]
    names = [
        "attention of layer 0",
        "attention of layer 1",
        "rollout",
        f"for {labels[0]}",
        f"for {labels[0]} against {labels[1]}",
    ]
    assert [each.name for each in first.maps] == names
    expected = [
        attention_map(seen, 0),
        attention_map(seen, 1),
        rollout(seen),
        relevance(model, images, ranked[0]),
        relevance(model, images, ranked[0], ranked[1], signed=True),
    ]
    for each, values in zip(first.maps, expected, strict=True):
        # images went through a PNG in between, which changes nothing; what is left is rounding
        assert np.allclose(each.values, values[0], atol=1e-5), each.name
        assert each.faithfulness is not None
        assert each.explains == labels[0]
    assert [each.layer for each in first.heads] == [0, 1]
    assert np.allclose(first.heads[1].values, attention_map(seen, 1, head="all")[0], atol=1e-6)
    prediction = vitrail.Predictor(model)([pictures[0]])[0]
    assert [label for label, _ in first.top] == [label for label, _ in prediction.top]
    assert [p for _, p in first.top] == pytest.approx([p for _, p in prediction.top], abs=1e-5)
    distances = mean_distances(look(model, tensors(model, picture)) for picture in pictures)
    assert found.distances is not None
    assert np.allclose(found.distances, distances, rtol=1e-5)
    assert first.attention is not None
    assert np.allclose(first.attention.queries[1], seen.layers[1].queries[0], atol=1e-6)
    assert (found.notes, len(found.positions), found.filters is not None) == ((), 1, True)
    assert set(found.verdicts()) == {each.kin for picture in found.pictures for each in picture.maps}


@pytest.mark.parametrize(
    ("true", "asked", "expected"),
    [
        (None, Asked(), [(2, None), (2, 0)]),
        (2, Asked(), [(2, None), (2, 0)]),
        (1, Asked(), [(2, None), (1, None), (2, 1), (1, 2)]),
        (1, Asked(target=0), [(0, None), (0, 2)]),
        (1, Asked(against=2), [(0, None), (0, 2)]),
        (None, Asked(target=1, against=0), [(1, None), (1, 0)]),
    ],
)
def test_the_classes_that_are_explained(true: int | None, asked: Asked, expected: list[tuple[int, int | None]]) -> None:
    assert questions(torch.tensor([1.0, -1.0, 2.0]), true, asked) == expected


def test_a_single_class_has_no_other_to_be_told_from() -> None:
    assert questions(torch.tensor([1.0]), None, Asked()) == [(0, None)]


def test_a_known_mistake_is_explained_both_ways(pictures: list[np.ndarray], tmp_path: Path) -> None:
    model = a_vit()
    for i, picture in enumerate(pictures):
        for label in model.labels:
            (tmp_path / label).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / label / f"{i}.png")
    wrong = mistakes(model, tmp_path, count=2)
    found = vitrail.inspect(model, wrong.pictures, faithfulness=False)
    assert len(found.pictures) == 2
    for picture, mistake in zip(found.pictures, wrong.pictures, strict=True):
        predicted, true = mistake.mistake.predicted, mistake.mistake.target
        assert (picture.name, picture.label, picture.top[0][0]) == (mistake.mistake.name, true, predicted)
        names = [
            f"for {predicted}",
            f"for {true}",
            f"for {predicted} against {true}",
            f"for {true} against {predicted}",
        ]
        assert [each.name for each in picture.maps[-4:]] == names
        assert [each.signed for each in picture.maps[-4:]] == [False, False, True, True]
        assert all(each.faithfulness is None for each in picture.maps)


def test_a_patch_may_be_asked_what_it_attends_to(pictures: list[np.ndarray]) -> None:
    model = a_vit()
    (picture,) = vitrail.inspect(model, pictures[:1], query=(1, 3)).pictures
    seen = look(model, tensors(model, pictures[0]))
    assert [each.name for each in picture.maps[:2]] == ["attention of layer 1, patch 1,3", "rollout, patch 1,3"]
    assert np.allclose(picture.maps[0].values, attention_map(seen, -1, (1, 3))[0], atol=1e-6)
    # what one patch attends to is no account of the answer
    assert [each.faithfulness is None for each in picture.maps] == [True, True, False, False]
    assert picture.alike is not None
    assert picture.alike.patch == (1, 3)
    assert picture.alike.values[1, 3] == pytest.approx(1, abs=1e-6)


def test_a_bad_picture_does_not_stop_the_others(pictures: list[np.ndarray], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    found = vitrail.inspect(a_vit(), [bad, pictures[0], tmp_path / "none.png"], faithfulness=False)
    assert [picture.name for picture in found.pictures] == ["picture 2"]
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"2 of 3 images cannot be read; the first: {bad}")
    with pytest.raises(vitrail.UserError, match="bad.png"):
        vitrail.inspect(a_vit(), [bad])


def test_pictures_beyond_those_shown_count_in_the_distance(pictures: list[np.ndarray]) -> None:
    model = a_vit()
    some = vitrail.inspect(model, pictures, faithfulness=False, shown=1)
    every = vitrail.inspect(model, pictures, faithfulness=False)
    assert (len(some.pictures), len(every.pictures)) == (1, 3)
    assert some.notes == ("2 further pictures count in the attention distance alone",)
    assert some.distances is not None
    assert every.distances is not None
    assert np.allclose(some.distances, every.distances, rtol=1e-6)


def test_each_picture_keeps_its_own_shape_in_mode_native() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((16, 16, 3), (8, 32, 3))]
    found = vitrail.inspect(a_vit(contract={"mode": "native", "patch_size": 4}), images, faithfulness=False)
    assert [picture.grid for picture in found.pictures] == [(4, 4), (2, 8)]
    assert [picture.colours.shape for picture in found.pictures] == [(4, 4, 3), (2, 8, 3)]


def test_one_colour_means_one_thing_in_all_pictures(pictures: list[np.ndarray]) -> None:
    found = vitrail.inspect(a_vit(), [pictures[0], pictures[1], pictures[0]], faithfulness=False).pictures
    assert np.array_equal(found[0].colours, found[2].colours)
    assert not np.allclose(found[0].colours, found[1].colours)


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "avg", "class_token": False, "position": "relative_bias"},
        {"pool": "map", "class_token": False, "position": "rotary2d"},
        {"registers": 2, "position": "relative"},
        {"channels": 1, "position": "learned2d"},
    ],
    ids=lambda changes: changes["position"],
)
def test_every_kind_of_model_can_be_looked_into(changes: dict[str, object], pictures: list[np.ndarray]) -> None:
    found = vitrail.inspect(a_vit(**changes), pictures[:1])
    assert found.notes == ()
    assert len(found.pictures[0].maps) == 4
    assert all(np.isfinite(each.values).all() for each in found.pictures[0].maps)
    assert found.pictures[0].image.shape == (16, 16, 3)


def test_a_model_without_positions_is_told_of() -> None:
    found = vitrail.inspect(a_vit(position="none"), faithfulness=False)
    assert found.positions == ()
    assert "no position embedding" in found.notes[0]


def test_a_model_without_a_head_shows_the_rest(pictures: list[np.ndarray]) -> None:
    found = vitrail.inspect(a_vit(classes=0), pictures[:1])
    (picture,) = found.pictures
    assert picture.top == ()
    assert [each.name for each in picture.maps] == ["attention of layer 1", "rollout"]
    assert found.verdicts() == {}
    assert found.notes == ("the model has no head: there are no labels, no maps for a class, and no faithfulness",)


def test_a_resnet_shows_its_filters_and_labels(pictures: list[np.ndarray], tmp_path: Path) -> None:
    model = shaken(ResNet(ResNetConfig(image_size=(32, 32), classes=3, layers=(1, 1))), (32, 32))
    found = vitrail.inspect(model, [Source("a.png", lambda: b""), pictures[0]])
    assert found.filters is not None
    assert (found.distances, found.positions) == (None, ())
    assert found.pictures[0].maps == ()
    assert len(found.pictures[0].top) == 3
    assert any("ResNet has no attention" in note for note in found.notes)
    found.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "figures").iterdir()) == ["filters.png", "filters.svg"]


def test_positions_before_and_after_a_resize() -> None:
    model = a_vit()
    assert [each.grid for each in vitrail.inspect(model).positions] == [(4, 4)]
    assert [each.grid for each in vitrail.inspect(model, resized=(24, 16)).positions] == [(4, 4), (6, 4)]
    found = vitrail.inspect(model, image_size=24)
    assert [each.grid for each in found.positions] == [(4, 4), (6, 6)]
    assert found.config.image_size == (24, 24)
    assert model.config.image_size == (16, 16)


def test_queries_and_keys_that_would_fill_the_memory_are_left_out(
    pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 2 * 2 * 2 * 17 * 8 * 4  # queries and keys, layers, heads, tokens, width, bytes
    monkeypatch.setattr(module, "KEPT", one)
    found = vitrail.inspect(a_vit(), pictures, faithfulness=False)
    assert [picture.attention is None for picture in found.pictures] == [False, True, True]
    assert found.notes == ("queries and keys of 2 pictures are left out: together they would take too much memory",)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target": "cta"}, "did you mean cat"),
        ({"target": 3}, "from 0 to 2"),
        ({"target": "cat", "against": 0}, "against itself"),
        ({"layers": (2,)}, "layers 0 to 1"),
        ({"layers": ()}, "one at least"),
        ({"query": (4, 0)}, "rows go from 0 to 3"),
        ({"image_size": 18}, "18"),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    asked: dict[str, object], message: str, pictures: list[np.ndarray]
) -> None:
    with pytest.raises(vitrail.UserError, match=message):
        vitrail.inspect(a_vit(), pictures[:1], **asked)
    with pytest.raises(vitrail.UserError, match="no head"):
        vitrail.inspect(a_vit(classes=0), target="cat")


def test_arrays_are_saved_by_the_names_that_the_docs_give(
    pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.inspection.figures.drawings", lambda _: {})  # they have tests of their own
    found = vitrail.inspect(a_vit(position="relative_bias"), pictures[:2], resized=24)
    assert found.save(tmp_path / "out") == tmp_path / "out" / "index.html"
    with np.load(tmp_path / "out" / "arrays.npz") as saved:
        names = set(saved.files)
        assert np.array_equal(saved["pictures/1/maps/1"], found.pictures[1].maps[1].values)
        assert saved["pictures/1/maps"].tolist() == [each.name for each in found.pictures[1].maps]
        assert saved["pictures/0/maps/2/random_deletion"].shape[1:] == saved["pictures/0/maps/2/shares"].shape
        queries, keys, bias = (saved[f"pictures/0/{name}"].astype(np.float32) for name in ("queries", "keys", "bias"))
    scores = torch.from_numpy(queries[1] @ keys[1].swapaxes(1, 2) / 8**0.5 + bias[1])
    weights = scores.softmax(dim=-1)[:, 0, 1:].mean(dim=0).reshape(4, 4)
    assert np.allclose(weights, found.pictures[0].maps[0].values, atol=1e-3)  # half precision
    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    general = {re.sub(r"/\d+", "/j", re.sub(r"^pictures/\d+", "pictures/i", name)) for name in names}
    assert {name for name in general if f"`{name}`" not in page} == set()


def test_saving_is_all_or_nothing(pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(vitrail.inspect(a_vit(), pictures[:1], faithfulness=False), pictures=(), distances=None)
    out = tmp_path / "out"
    found.save(out)
    (out / "mine.txt").write_text("a person's own")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    found.save(out)
    assert {
        path: path.read_bytes() for path in out.rglob("*") if path.is_file()
    } == before  # the same, and nothing lost

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("vitrail.inspection.save.write_page", fails)
    with pytest.raises(OSError, match="disk full"):
        found.save(out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_notebook_shows_it_and_runs_nothing(pictures: list[np.ndarray]) -> None:
    model = a_vit()
    model.labels = ("cat", HOSTILE, "owl")
    source = Source(HOSTILE, lambda: (_ for _ in ()).throw(OSError("gone")))
    found = vitrail.inspect(model, [source, pictures[0]], name=HOSTILE)
    shown = found._repr_html_()
    assert "<img src=x" not in shown
    assert "<script" not in shown
    assert shown.count("data:image/png;base64,") == 1
    for each in (found, found.pictures[0], found.positions[0], found.filters):
        assert (each._repr_png_() or b"").startswith(b"\x89PNG")  # type: ignore[union-attr]
    assert replace(found, pictures=(), distances=None, positions=(), filters=None)._repr_png_() is None


def test_a_layer_with_two_names_is_one_and_one_picture_is_no_sample(pictures: list[np.ndarray]) -> None:
    found = vitrail.inspect(a_vit(), pictures[0], layers=[-1, 1], target=np.int64(1), query=(np.int64(1), np.int64(2)))
    assert len(found.pictures) == 1
    assert len(found.pictures[0].heads) == 1
    judged = vitrail.inspect(a_vit(), pictures[0], layers=[-1, 1])
    assert all("interval" not in sentence for sentence in judged.verdicts().values())


def test_the_distance_says_of_how_many_pictures_it_is_the_mean(pictures: list[np.ndarray]) -> None:
    assert vitrail.inspect(a_vit(), pictures, shown=1, faithfulness=False).looked_at == 3
