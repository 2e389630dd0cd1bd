"""``vitrail inspect``: a page, figures and arrays from one command, and what cannot be done said in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.data.preprocess import Preprocess
from vitrail.inspection import figures
from vitrail.model import ViT, ViTConfig

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures have tests of their own, and take most of the time."""
    all_of_them = figures.drawings
    monkeypatch.setattr(figures, "drawings", lambda found: dict(list(all_of_them(found).items())[-1:]))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(0)
    vit = ViT(ViTConfig(image_size=(16, 16), patch_size=4, classes=3, width=16, depth=2, heads=2, mlp_width=16))
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vit.preprocess, vit.labels = Preprocess((16, 16)), ("cat", "dog", "owl")
    vitrail.save(vit, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders, with one file that is no picture."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    (tmp_path / "photos" / "cat" / "bad.png").write_bytes(b"nothing")
    return tmp_path / "photos"


def test_pictures_give_a_page_figures_and_arrays(run: Run, model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, told, err = run("inspect", model, photos / "cat", photos / "dog" / "0.png", "--layers", "0,-1", "--out", out)
    assert code == 0
    assert {path.name for path in out.iterdir()} == {"index.html", "arrays.npz", "figures"}
    assert "1 of 4 images cannot be read; the first: " in err
    assert "bad.png" in err
    assert told.splitlines()[-1] == f"page: {out / 'index.html'}"
    assert "rollout: Over 3 pictures" in told
    assert "attention distance: " in told
    assert "rows and columns in the positions: " in told
    with np.load(out / "arrays.npz") as arrays:
        assert len(arrays["pictures"]) == 3
        assert arrays["pictures/2/maps"].tolist()[:2] == ["attention of layer 0", "attention of layer 1"]


def test_mistakes_come_first_and_bad_pictures_are_left_out(run: Run, model: Path, photos: Path, tmp_path: Path) -> None:
    options = ["--mistakes", photos, "--count", "2", "--no-faithfulness", "--image-size", "24", "--resized", "32x16"]
    code, told, err = run("inspect", model, photos / "cat" / "1.png", *options, "--out", tmp_path / "out")
    assert code == 0
    assert "of 6 images are told wrong; the 2 most confident are shown" in err
    assert "1 of 7 images cannot be used and are left out" in err
    assert "random map" not in told
    with np.load(tmp_path / "out" / "arrays.npz") as arrays:
        assert arrays["pictures"].tolist()[2:] == [str(photos / "cat" / "1.png")]
        assert len(arrays["pictures/0/maps"]) == 6
        assert arrays["pictures/0/image"].shape == (24, 24, 3)
        assert [arrays[f"positions/{i}"].shape[:2] for i in range(2)] == [(4, 4), (8, 4)]


def test_without_pictures_it_shows_what_the_model_has_learned(run: Run, model: Path, tmp_path: Path) -> None:
    code, told, _ = run("inspect", model, "--out", tmp_path / "out")
    assert code == 0
    assert "attention distance" not in told
    with np.load(tmp_path / "out" / "arrays.npz") as arrays:
        assert set(arrays.files) == {"pictures", "positions/0", "filters", "filters/shares"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--query", "3"], "--query 3: class, mean, or the row and column of a patch, such as 3,5"),
        (["--query", "9,0"], "rows go from 0 to 3"),
        (["--layers", "one"], "--layers one: write numbers"),
        (["--layers", "2"], "layers 0 to 1"),
        (["--target", "cow"], "class 'cow'"),
        (["--target", "cat", "--against", "cat"], "against itself"),
        (["--split", "val"], "give --mistakes DATA too"),
        (["--resized", "18"], "18"),
        (["--image-size", "18"], "18"),
        (["nothing.png"], "nothing.png: no such file or folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    run: Run, model: Path, photos: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    picture = [] if options == ["nothing.png"] else [photos / "cat" / "0.png"]
    code, told, err = run("inspect", model, *picture, *options, "--out", tmp_path / "out")
    assert (code, told) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_is_not_overwritten_by_the_folder(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a person's own")
    code, _, err = run("inspect", model, "--out", tmp_path / "out")
    assert code == 2
    assert "is a file; give a folder" in err
    assert (tmp_path / "out").read_text() == "a person's own"


def test_what_is_not_of_an_inspection_is_neither_replaced_nor_lost(run: Run, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "paper" / "figures"
    mine.mkdir(parents=True)
    (mine / "mine.txt").write_text("a person's own")
    code, _, err = run("inspect", model, "--out", tmp_path / "paper")
    assert code == 2
    assert "figures already, which is of no inspection" in err
    assert (mine / "mine.txt").read_text() == "a person's own"
    code, _, err = run("inspect", model, "--out", mine / "mine.txt" / "deeper")
    assert code == 2
    assert "is a file; give a folder" in err
    for _ in range(2):  # an inspection takes the place of an earlier one, and leaves what lies beside its figures
        code, _, err = run("inspect", model, "--out", tmp_path / "out")
        assert code == 0, err
        (tmp_path / "out" / "figures" / "mine.svg").write_text("a person's own")
        (tmp_path / "out" / "figures" / "maps-9.png").write_text("of an earlier one")
    run("inspect", model, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "figures" / "mine.svg").read_text() == "a person's own"
    assert not (tmp_path / "out" / "figures" / "maps-9.png").exists()
