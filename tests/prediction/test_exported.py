"""An exported folder stands where a model may stand, gives its answers, and does without torch."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrail
from exported_models import SIZE, small_model, write_exported
from vitrail.cli.engines import open_exported, open_predictor
from vitrail.cli.pixels import Pixels
from vitrail.errors import UserError
from vitrail.prediction import Predictor
from vitrail.prediction.by_engine import is_exported

pytestmark = pytest.mark.slow  # the models are exported first
pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ENGINES = [("openvino", "openvino"), ("onnx", "openvino"), ("onnx", "onnxruntime")]
"""Form, and what runs it."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as a model folder (torch) and exported."""
    folder = tmp_path_factory.mktemp("forms")
    vitrail.save(small_model(), folder / "torch")
    exported = {form: write_exported(small_model(), folder / form, form) for form in ("openvino", "onnx")}
    return {"torch": folder / "torch", **exported}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine pictures of different sizes, one of them damaged."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(9):
        picture = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((70 + 9 * i, 60), 3)
        picture.save(folder / f"{i}.jpg", quality=90)
    (folder / "4.jpg").write_bytes(b"\xff\xd8 nothing")
    return [folder / f"{i}.jpg" for i in range(9)]


@pytest.mark.parametrize(("form", "engine"), ENGINES)
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_the_answers_are_the_models(
    forms: dict[str, Path], images: list[Path], form: str, engine: str, batch_size: int
) -> None:
    expected = Predictor(forms["torch"], device="cpu")(images, top=4)
    found = Predictor(forms[form], engine=engine, batch_size=batch_size)(images, top=4)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.file, ours.label, ours.error) == (theirs.file, theirs.label, theirs.error)
        assert [label for label, _ in ours.top] == [label for label, _ in theirs.top]
        # float32, summed in another order
        np.testing.assert_allclose([p for _, p in ours.top], [p for _, p in theirs.top], rtol=1e-4, atol=1e-7)
    assert [prediction.error is not None for prediction in found] == [i == 4 for i in range(9)]


@pytest.mark.parametrize(("form", "engine"), ENGINES)
def test_the_features_are_the_models(forms: dict[str, Path], images: list[Path], form: str, engine: str) -> None:
    good = [image for image in images if image.name != "4.jpg"]
    predictor = Predictor(forms[form], engine=engine, batch_size=3)
    found, expected = predictor.features(good), Predictor(forms["torch"], device="cpu").features(good)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert predictor.features([]).shape == (0, 32)


@pytest.mark.parametrize(("form", "engine"), ENGINES)
def test_predicting_with_an_exported_folder_imports_no_torch(
    forms: dict[str, Path], images: list[Path], form: str, engine: str
) -> None:
    code = (
        "import sys; from pathlib import Path; from vitrail.cli.engines import open_predictor;"
        "from vitrail.cli.pixels import Pixels; from vitrail.inputs import expand_inputs;"
        f"p = open_predictor({str(forms[form])!r}, None, Pixels(), None, batch_size=4, device='auto', engine={engine!r});"
        f"found = p(expand_inputs([{str(images[0].parent)!r}])); assert sum(f.error is None for f in found) == 8;"
        f"assert p.features([{str(images[0])!r}]).shape == (1, 32);"
        "heavy = {'torch', 'torchvision', 'sklearn', 'scipy', 'pyarrow', 'pandas', 'nncf', 'onnx', 'safetensors'};"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_imports_next_to_nothing_beside_the_runtime(forms: dict[str, Path], images: list[Path]) -> None:
    code = (
        "import sys; from vitrail.cli import main;"
        f"sys.argv = ['vitrail', 'predict', {str(forms['onnx'])!r}, {str(images[0])!r}, '--format', 'jsonl',"
        " '--engine', 'onnxruntime']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "ours = {'vitrail.weights', 'vitrail.data.samples', 'vitrail.cli.train', 'vitrail.training', 'vitrail.evaluation'};"
        "heavy = {'torch', 'torchvision', 'rich.table', 'filelock', 'pyarrow', 'yaml', 'jinja2', 'openvino'} | ours;"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["file"] == str(images[0])


@pytest.mark.parametrize(("form", "engine"), ENGINES)
def test_a_copy_for_another_process_gives_the_same_answers(
    forms: dict[str, Path], images: list[Path], form: str, engine: str
) -> None:
    predictor = Predictor(forms[form], engine=engine, threads=1, batch_size=5)
    copy = pickle.loads(pickle.dumps(predictor))
    assert copy(images) == predictor(images)
    assert copy.identity() == predictor.identity()


def test_work_that_is_continued_is_done_in_one_way_whatever_the_last_batch_is(
    forms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.runtimes import engine as engines

    asked = []
    real = engines.open_engine

    def recorded(*arguments: object, **named: object) -> object:
        asked.append(named["hint"])
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(engines, "open_engine", recorded)
    for batch_size, threads, continued in ((32, 2, True), (3, 2, True), (32, 1, True), (32, 2, False)):
        choices = {"batch_size": batch_size, "threads": threads, "device": "cpu", "continued": continued}
        open_predictor(str(forms["onnx"]), None, Pixels(), None, **choices)  # type: ignore[arg-type]
    assert asked == ["throughput", "latency", "latency", None]


def test_an_exported_folder_is_known_by_its_configuration(forms: dict[str, Path], tmp_path: Path) -> None:
    assert is_exported(forms["onnx"])
    assert not is_exported(forms["torch"])
    (tmp_path / "config.json").write_text("{")
    for name in (tmp_path, tmp_path / "nowhere", "hf:owner/name", tmp_path / "config.json"):
        assert not is_exported(name)


def test_choices_without_an_effect_are_refused(forms: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="is not exported; write one with vitrail export MODEL --to openvino"):
        Predictor(forms["torch"], engine="openvino")
    with pytest.raises(UserError, match="OMP_NUM_THREADS=2"):
        Predictor(forms["torch"], threads=2)
    with pytest.raises(UserError, match="run on the CPU"):
        Predictor(forms["onnx"], device="cuda")
    with pytest.raises(UserError, match="not one of torch's"):
        Predictor(forms["onnx"]).model.eval()


def test_what_an_export_has_fixed_is_refused_by_its_option(forms: dict[str, Path]) -> None:
    name = str(forms["openvino"])
    for settings, pixels, size, message in (
        (["model.activation=relu"], Pixels(), None, "^--set: .*say it to vitrail export"),
        (None, Pixels(crop_fraction=0.9), None, "^--crop-fraction: "),
        (None, Pixels(), "32", "^--image-size 32: .*exported for 16x24"),
        (None, Pixels(), "16x24,32", "^--image-size"),
    ):
        with pytest.raises(UserError, match=message):
            open_exported(name, settings, pixels, size)
    predictor = open_predictor(name, None, Pixels(), "16x24", batch_size=2, device="cpu")
    assert predictor.preprocess == small_model().preprocess
    in_torch = open_predictor(str(forms["torch"]), None, Pixels(), None, batch_size=2, device="cpu")
    assert in_torch.model.config.image_size == SIZE


def test_two_predictors_are_alike_if_all_that_decides_is(forms: dict[str, Path]) -> None:
    def identity(name: str, **choices: object) -> str:
        return json.dumps(Predictor(forms[name], **choices).identity())

    assert identity("onnx") == identity("onnx")
    assert identity("torch", device="cpu") == identity("torch", device="cpu")
    others = [identity("onnx", engine="onnxruntime"), identity("openvino"), identity("onnx", batch_size=3)]
    assert len({identity("onnx"), identity("torch", device="cpu"), *others}) == 5
    changed = small_model(seed=1)
    assert json.dumps(Predictor(changed, device="cpu").identity()) != identity("torch", device="cpu")


@pytest.mark.parametrize("form", ["openvino", "onnx"])
def test_an_evaluation_has_the_models_numbers(
    forms: dict[str, Path], tmp_path: Path, form: str, run: Callable[..., tuple[int, str, str]]
) -> None:
    rng = np.random.default_rng(1)
    for label in small_model().labels:
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(5):
            picture = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((40, 30 + i), 3)
            picture.save(tmp_path / "data" / label / f"{i}.png")
    values = {}
    for name in ("torch", form):
        file = tmp_path / f"{name}.json"
        code, _, err = run(
            *("evaluate", forms[name], tmp_path / "data", "--json", file, "--workers", 0, "--batch-size", 8),
            *("--report", tmp_path / "page.html"),
        )
        assert code == 0, err
        values[name] = json.loads(file.read_text())
        assert "<dt>engine</dt>" in (tmp_path / "page.html").read_text().replace(" ", "").replace("\n", "")
    ours, theirs = values[form], values["torch"]
    assert [ours[key] for key in ("engine", "precision", "merge")] == ["openvino", "float32", None]
    assert [theirs[key] for key in ("engine", "precision", "merge")] == ["torch", "float32", None]
    assert ours["image_size"] == list(SIZE)
    assert ours["n"] == theirs["n"] == 20
    assert ours["top1"] == theirs["top1"]
    assert ours["confusion"] == theirs["confusion"]
    code, _, err = run("evaluate", forms[form], tmp_path / "data", "--image-size", "16,32")
    assert code == 2
    assert "exported for 16x24" in err
    code, _, err = run("evaluate", forms["torch"], tmp_path / "data", "--engine", "openvino")
    assert code == 2
    assert "is not exported" in err
