"""``vitrail predict`` and ``vitrail embed``: formats for people and machines, and exit codes that scripts can trust."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.cli.outputs import write_csv
from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError
from vitrail.model import ViT, ViTConfig
from vitrail.prediction import Prediction
from vitrail.weights import replace

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(0)
    vit = ViT(ViTConfig(image_size=(16, 16), patch_size=8, classes=3, width=32, depth=1, heads=2, mlp_width=32))
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vit.preprocess, vit.labels = Preprocess((16, 16)), ("[red]", "green, blue", "grün")
    vitrail.save(vit, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three class folders' worth of images, the first of them damaged."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    bad = tmp_path / "images" / "a" / "0.png"
    bad.write_bytes(bad.read_bytes()[:200])
    return tmp_path / "images"


def test_json_lines_have_one_object_an_image(run: Run, model: Path, images: Path) -> None:
    code, out, err = run("predict", model, images, "--format", "jsonl", "--top", "2")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [set(row) for row in rows] == [{"file", "error"}] + [{"file", "label", "probability", "top"}] * 3
    assert rows[0]["file"] == str(images / "a" / "0.png")
    assert rows[1]["top"][0] == [rows[1]["label"], rows[1]["probability"]]
    assert [len(row["top"]) for row in rows[1:]] == [2, 2, 2]
    assert "1 of 4 images cannot be read" in err


def test_csv_can_be_read_back(run: Run, model: Path, images: Path) -> None:
    code, out, _ = run("predict", model, images, "--format", "csv", "--top", "2")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert list(rows[0]) == ["file", "label", "probability", "label_2", "probability_2", "error"]
    assert rows[0]["error"]
    assert rows[0]["label"] == ""
    assert {row["label"] for row in rows[1:]} <= {"[red]", "green, blue", "grün"}


def test_parquet_has_a_row_an_image(run: Run, model: Path, images: Path, tmp_path: Path) -> None:
    code, out, _ = run("predict", model, images, "--out", tmp_path / "p.parquet")
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert (code, out) == (0, "")
    assert len(rows) == 4
    assert rows[0]["error"]
    assert rows[0]["label"] is None
    assert rows[1]["top"][0] == {"label": rows[1]["label"], "probability": rows[1]["probability"]}
    assert sum(entry["probability"] for entry in rows[1]["top"]) == pytest.approx(1)


def test_the_table_shows_names_and_labels_as_they_are(run: Run, model: Path, images: Path) -> None:
    code, out, _ = run("predict", model, images)
    assert code == 0
    assert "[red]" in out
    assert "damaged" in out


def test_the_files_suffix_names_the_format(run: Run, model: Path, images: Path, tmp_path: Path) -> None:
    assert run("predict", model, images, "--out", tmp_path / "p.jsonl")[:2] == (0, "")
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 4
    assert run("predict", model, images, "--out", tmp_path / "p.txt")[0] == 0
    assert "probability" in (tmp_path / "p.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{images}/nowhere.png"], "nowhere.png: no such file or folder"),
        (["{images}/x.png", "nowhere/", "y.png"], "x.png: no such file or folder (nor is any of the 2 others there)"),
        (["{images}/*.webp"], "no file fits this pattern"),
        (["{images}", "--format", "jsnl"], "did you mean jsonl?"),
        (["{images}", "--format", "parquet"], "add --out FILE.parquet"),
        (["{images}", "--out", "{images}/p.xyz"], "the suffix names no format"),
        (["{images}", "--out", "{images}/nowhere/p.csv"], "there is no folder"),
        (["{images}", "--out", "{images}/a", "--format", "csv"], "a: a folder; name a file in it"),
        (["{images}", "--device", "abacus"], "device 'abacus'"),
        ([""], "empty name"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(
    run: Run, model: Path, images: Path, arguments: list[str], message: str
) -> None:
    before = sorted(images.rglob("*"))
    code, out, err = run("predict", model, *(a.format(images=images) for a in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(images.rglob("*")) == before


@pytest.mark.parametrize("format", ["table", "csv", "jsonl", "parquet"])
def test_where_no_image_can_be_read_every_error_is_still_reported(
    run: Run, model: Path, images: Path, tmp_path: Path, format: str
) -> None:
    folder = images / "a"
    (folder / "1.png").write_bytes(b"no picture")
    out = ["--out", tmp_path / "p.parquet"] if format == "parquet" else []
    code, printed, err = run("predict", model, folder, "--format", format, *out)
    assert code == 2
    assert err.startswith("error: none of 2 images can be read; the first: ")
    assert len(err.splitlines()) == 1
    if format == "table":
        assert "damaged" in printed
        assert "not an image" in printed
        return
    if format == "parquet":
        rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    elif format == "csv":
        rows = list(csv.DictReader(io.StringIO(printed)))
    else:
        rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["file"] for row in rows] == [str(folder / "0.png"), str(folder / "1.png")]
    assert ["damaged" in row["error"] for row in rows] == [True, False]


def test_a_path_that_is_not_there_does_not_stop_the_others(run: Run, model: Path, images: Path) -> None:
    code, out, err = run("predict", model, images / "nowhere.png", images / "b" / "0.png", "--format", "jsonl")
    assert code == 0
    assert ["error" in json.loads(line) for line in out.splitlines()] == [True, False]
    assert "1 of 2 images cannot be read; the first: " in err


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embed_writes_names_features_and_labels(
    run: Run, model: Path, images: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"features{suffix}"
    code, printed, err = run("embed", model, images, "--out", out)
    assert (code, printed) == (0, "")
    assert "1 of 4 images cannot be read and are left out" in err
    if suffix == ".npz":
        with np.load(out) as found:
            names, features, labels = (found[key].tolist() for key in ("names", "features", "labels"))
    else:
        columns = pq.read_table(out).to_pydict()
        names, features, labels = (columns[key] for key in ("name", "features", "label"))
    assert names == ["a/1.png", "b/0.png", "b/1.png"]
    assert labels == ["a", "b", "b"]
    expected = vitrail.Predictor(model, device="cpu").features([images / name for name in names])
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_embed_leaves_labels_out_where_there_are_none(run: Run, model: Path, images: Path, tmp_path: Path) -> None:
    assert run("embed", model, f"{images}/b/*.png", "--out", tmp_path / "f.npz")[0] == 0
    with np.load(tmp_path / "f.npz") as found:
        assert found.files == ["names", "features"]


def test_embed_refuses_what_it_cannot_write_or_read(run: Run, model: Path, images: Path, tmp_path: Path) -> None:
    code, _, err = run("embed", model, images, "--out", tmp_path / "f.csv")
    assert code == 2
    assert "must be .npz or .parquet" in err
    code, _, err = run("embed", model, images / "a" / "0.png", "--out", tmp_path / "f.npz")
    assert code == 2
    assert "damaged" in err
    assert not (tmp_path / "f.npz").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_refused_at_once_and_stays_what_it_is(run: Run, model: Path, images: Path, tmp_path: Path) -> None:
    for name in ("p.csv", "p.npz", "p.json", "p.html"):
        os.mkfifo(tmp_path / name)
    for arguments in (
        ("predict", "no/such/model", images, "--out", tmp_path / "p.csv"),  # refused before the model is looked for
        ("embed", "no/such/model", images, "--out", tmp_path / "p.npz"),
        ("evaluate", "no/such/model", images, "--json", tmp_path / "p.json"),
        ("evaluate", "no/such/model", images, "--report", tmp_path / "p.html"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert f"{arguments[3]} {arguments[4]}: a pipe or a device, and no file" in err
    with pytest.raises(UserError, match="a pipe or a device"), replace.file(tmp_path / "p.csv"):
        pass
    assert all((tmp_path / name).is_fifo() for name in ("p.csv", "p.npz", "p.json", "p.html"))
    for option, command in (("--out", "embed"), ("--json", "evaluate"), ("--report", "evaluate")):
        (tmp_path / "d.npz").mkdir(exist_ok=True)
        code, _, err = run(command, "no/such/model", images, option, tmp_path / "d.npz")
        assert code == 2
        assert f"{option} {tmp_path / 'd.npz'}: a folder; name a file in it" in err


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no characters, and control characters")
def test_names_that_are_no_characters_are_written_as_escapes(
    run: Run, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)  # names that fit into a table
    odd = os.fsdecode(b"\xe9t\xe9")
    (images / "b").rename(images / odd)
    (images / odd / "1.png").rename(images / odd / "x\x1b[2J\n\u202egpj.png")
    assert run("embed", model, images, "--out", tmp_path / "f.parquet")[0] == 0
    assert pq.read_table(tmp_path / "f.parquet").to_pydict()["label"] == ["a", "\\udce9t\\udce9", "\\udce9t\\udce9"]
    code, out, _ = run("predict", model, odd)
    assert code == 0
    assert "\\udce9t\\udce9/x\\x1b[2J\\n\\u202egpj.png" in out
    assert not {"\x1b", "\u202e"} & set(out)
    code, _, err = run("predict", model, odd, f"{odd}/\x1bc.png")
    assert code == 0
    assert "\\x1bc.png: cannot be read" in err
    assert "\x1b" not in err
    code, _, err = run("predict", model, f"{odd}/\x1bc.png")
    assert (code, err) == (2, "error: \\udce9t\\udce9/\\x1bc.png: no such file or folder\n")
    out_file = tmp_path / "p.parquet"
    assert run("predict", model, images, "--out", out_file)[0] == 0
    assert any("\\x1b" not in row["file"] and "\x1b" in row["file"] for row in pq.read_table(out_file).to_pylist())


def test_a_process_that_leaves_at_once_has_written_all(model: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys; atexit.register(lambda: print('last', flush=False))"
    )
    done = subprocess.run(
        [sys.executable, "-m", "vitrail", "predict", str(model), str(images), "--format", "jsonl"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "VITRAIL_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    *rows, last = done.stdout.splitlines()
    assert [Path(json.loads(row)["file"]).name for row in rows] == ["0.png", "1.png", "0.png", "1.png"]
    assert last == "last"
    assert "1 of 4 images cannot be read" in done.stderr


def test_predicting_imports_nothing_heavy_but_torch(model: Path, images: Path) -> None:
    """Start-up is torch's own: nothing that takes long may come beside it."""
    code = (
        "import sys; from vitrail.prediction import Predictor, expand_inputs;"
        f"p = Predictor({str(model)!r}, device='cpu'); p(expand_inputs([{str(images / 'b' / '0.png')!r}]));"
        "from vitrail.cli.outputs import write_jsonl;"
        "heavy = {'torchvision', 'sklearn', 'scipy', 'matplotlib', 'pydantic', 'pyarrow', 'pandas', 'torchmetrics',"
        " 'huggingface_hub', 'sympy', 'torch._dynamo', 'timm'};"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_csv_of_names_that_end_lines_can_be_read_back(tmp_path: Path) -> None:
    rows = [
        Prediction(name, "a,b", 0.5, (("a,b", 0.5),)) for name in ("one\r.png", "two\n.png", 'three".png', "four.png")
    ]
    write_csv(rows, tmp_path / "out.csv", 1)
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["file"] for row in found] == [row.file for row in rows]
