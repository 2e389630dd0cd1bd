"""The figures of an inspection: those that there is something for, of any number of pictures, whatever the names are."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from vitrail.inspection import figures
from vitrail.inspection.figures import learned, panels
from vitrail.inspection.inspection import (
    Alike,
    Curve,
    Faithfulness,
    Filters,
    Heads,
    Inspection,
    Map,
    Picture,
    Positions,
)
from vitrail.model import ViTConfig

NAMES = ["plain.png", "</script>&<b>$x$", "\x00\udcff\n", "عنوان " * 30, "a" * 300]


def curves(rng: np.random.Generator) -> Faithfulness:
    shares = np.linspace(0, 1, 5, dtype=np.float32)

    def curve() -> Curve:
        return Curve(shares, rng.random(5, dtype=np.float32))

    return Faithfulness(curve(), curve(), (curve(), curve()), (curve(), curve()))


def a_picture(name: str, grid: tuple[int, int] = (2, 3), seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    h, w = grid
    values = rng.random((2, h, w), dtype=np.float32)
    return Picture(
        name=name,
        image=rng.integers(0, 256, (8 * h, 8 * w, 3), dtype=np.uint8),
        grid=grid,
        patch_size=8,
        prefix=1,
        top=((name, 0.7), ("dog", 0.3)),
        maps=(
            Map("rollout", values[0], faithfulness=curves(rng), kind="rollout", explains=name),
            Map(f"for {name} against dog", values[1] - 0.5, True, curves(rng), "for a class", "dog"),
        ),
        attention=None,
        norms=rng.random((4, 1 + h * w), dtype=np.float32),
        features=rng.random((h, w, 5), dtype=np.float32),
        colours=rng.random((h, w, 3), dtype=np.float32),
        label="dog",
        heads=(Heads("attention of layer 3", 3, values),),
        alike=Alike((1, 2), values[0]),
    )


def an_inspection(*pictures: Picture) -> Inspection:
    rng = np.random.default_rng(1)
    return Inspection(
        "model",
        ViTConfig(classes=2),
        ("cat", "dog"),
        pictures,
        rng.random((4, 2), dtype=np.float32),
        tuple(Positions((h, w), rng.random((h, w, h, w), dtype=np.float32), "cosine") for h, w in ((2, 3), (20, 16))),
        Filters(rng.random((5, 8, 8, 3), dtype=np.float32), np.full(5, 0.1, np.float32), "components"),
    )


def test_every_view_is_written_as_png_and_svg(tmp_path: Path) -> None:
    # grids of two shapes in one figure, as mode native gives them
    found = an_inspection(a_picture("a.png"), a_picture("b.png", (3, 2), 1))
    written = figures.save(found, tmp_path / "figures")
    names = {"maps", "heads", "faithfulness", "features", "patches", "norms", "distance", "positions", "filters"}
    assert {path.name for path in written} == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width == 7 * figures.DPI
                assert np.asarray(image.convert("L")).std() > 5, "an empty picture"
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_names_are_drawn_as_they_are_and_break_nothing(tmp_path: Path) -> None:
    pictures = [replace(a_picture(name), heads=(), features=np.zeros((0, 0, 0), np.float32)) for name in NAMES]
    found = replace(an_inspection(*pictures), distances=None, positions=(), filters=None)
    written = {path.name: path for path in figures.save(found, tmp_path)}
    assert set(written) == {f"{name}.{suffix}" for name in ("maps", "faithfulness") for suffix in ("png", "svg")}
    for name in ("maps", "faithfulness"):
        elements = list(ElementTree.parse(written[f"{name}.svg"]).getroot().iter())
        assert not {element.tag.rpartition("}")[2] for element in elements} & {"script", "b"}
        assert any("</script>&<b>$x$" in (element.text or "") for element in elements)
        with Image.open(written[f"{name}.png"]) as image:
            assert image.width == 7 * figures.DPI


def test_more_pictures_than_fit_take_further_figures() -> None:
    many = figures.drawings(an_inspection(*(a_picture(f"{i}.png") for i in range(figures.ROWS + 1))))
    assert {name for name in many if name.startswith("maps")} == {"maps-1", "maps-2"}
    assert "norms" in many
    assert "maps-1" not in figures.drawings(an_inspection(a_picture("a.png")))


def test_nothing_is_drawn_of_what_is_not_there() -> None:
    empty = np.zeros((0, 0, 0), np.float32)
    bare = replace(
        a_picture("a.png"), maps=(), heads=(), alike=None, features=empty, colours=empty, norms=empty.reshape(0, 0)
    )
    found = replace(an_inspection(bare), distances=None, positions=(), filters=None)
    assert dict(figures.drawings(found)) == {}
    assert figures.shown(found) is None


def test_maps_are_compared_with_random_ones_of_the_same_class() -> None:
    figure = figures.drawings(an_inspection(a_picture("cat")))["faithfulness"]()
    axes = figure.axes
    assert len(axes) == 4
    assert [ax.get_ylabel() for ax in axes[::2]] == ["probability of cat", "probability of dog"]
    # the map's curve, and the mean of the random ones
    assert [len(ax.lines) for ax in axes] == [2, 2, 2, 2]


def test_a_position_lies_at_its_own_place_in_the_grid_of_grids() -> None:
    similarity = np.random.default_rng(0).random((2, 3, 2, 3), dtype=np.float32)
    picture, step = learned.grid_of_grids(similarity)
    assert step == 1
    assert picture.shape == (2 * 2 + 1, 3 * 3 + 2)
    assert np.array_equal(picture[3:, 4:7], similarity[1, 1])
    assert np.isnan(picture[2]).all()
    assert np.isnan(picture[:, 3]).all()


def test_of_many_positions_some_are_shown_with_all_that_they_resemble() -> None:
    h, w = 30, 16
    similarity = np.random.default_rng(0).random((h, w, h, w), dtype=np.float32)
    picture, step = learned.grid_of_grids(similarity)
    assert step == 3
    gap = 2
    assert picture.shape == (10 * (h + gap) - gap, 5 * (w + gap) - gap)
    assert np.array_equal(picture[:h, :w], similarity[1, 1])


def test_a_mistake_is_named_as_one() -> None:
    picture = a_picture("folder/a.png")
    assert panels.said(replace(picture, top=(("cat", 0.7),))) == "a.png: cat 70%, is dog"
    assert panels.said(replace(picture, top=(("dog", 0.7),))) == "a.png: dog 70%"
    assert panels.said(replace(picture, top=())) == "a.png"
