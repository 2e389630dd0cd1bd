"""Exported folders opened to run: without torch, damaged ones refused, many images as few, what goes wrong in one line."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from vitrail.errors import Failure, UserError
from vitrail.model import Model
from vitrail.runtimes import engine as engines
from vitrail.runtimes.engine import open_engine
from vitrail.runtimes.export import Plan, export
from vitrail.runtimes.exported import config_digest


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model()


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OpenVINO folder; the tests leave it as it is."""
    path = tmp_path_factory.mktemp("export") / "out"
    export(model, path, Plan("openvino"))
    return path


@pytest.fixture(scope="module")
def onnx(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "out"
    export(model, path, Plan("onnx"))
    return path


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_torch_is_not_imported_to_run_an_export(engine: str, onnx: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from vitrail.runtimes.engine import open_engine\n"
        f"engine = open_engine({str(onnx)!r}, {engine!r})\n"
        "found = engine.run(np.zeros((1, *engine.exported.image_shape), np.uint8))\n"
        "print(found['logits'].shape, sorted({'torch', 'onnx', 'scipy', 'sklearn', 'pydantic'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "(1, 3) []"


def test_many_images_in_streams_answer_as_each_by_itself(folder: Path, model: Model) -> None:
    images = tiny.images(11, model).numpy()
    many = open_engine(folder, threads=2, hint="throughput", cache=False).run(images)
    single = open_engine(folder, threads=2, hint="latency", cache=False)
    for i, image in enumerate(images):
        for name, values in single.run(image[None]).items():
            np.testing.assert_allclose(many[name][i], values[0], rtol=1e-4, atol=1e-4)  # float32, other shapes


def test_answers_stay_when_the_engine_runs_again(folder: Path, model: Model) -> None:
    """The runtime's own memory is not given away."""
    engine = open_engine(folder, threads=2, cache=False)
    first = engine.run(tiny.images(8, model).numpy())
    kept = {name: values.copy() for name, values in first.items()}
    engine.run(255 - tiny.images(8, model).numpy())
    for name, values in kept.items():
        assert np.array_equal(first[name], values)


def test_the_compiled_model_is_kept_for_the_next_start(folder: Path, model: Model, tmp_path: Path) -> None:
    open_engine(folder, threads=1).run(tiny.images(1, model).numpy())
    kept = list((tmp_path / "cache" / "vitrail" / "openvino").iterdir())
    assert kept
    again = open_engine(folder, threads=1)
    expected = open_engine(folder, threads=1, cache=False).run(tiny.images(1, model).numpy())
    assert np.array_equal(again.run(tiny.images(1, model).numpy())["logits"], expected["logits"])


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "config.json"])
def test_a_damaged_file_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = bytearray((copy / name).read_bytes())
    place = len(content) // 2
    content[place] = ord("7") if content[place] != ord("7") else ord("8")
    (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is (damaged|not JSON)"):
        open_engine(copy)


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model.bin").unlink()
    with pytest.raises(UserError, match=r"model\.bin cannot be read"):
        open_engine(copy)


def test_images_of_another_size_or_type_are_refused(folder: Path) -> None:
    engine = open_engine(folder, threads=1, cache=False)
    for images in (np.zeros((1, 3, 32, 32), np.uint8), np.zeros((1, 3, *tiny.SIZE), np.float32)):
        with pytest.raises(UserError, match="takes uint8 images of shape"):
            engine.run(images)


def test_an_engine_that_cannot_run_it_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--engine onnxruntime does not run a model exported to openvino"):
        open_engine(folder, "onnxruntime")
    with pytest.raises(UserError, match="did you mean openvino"):
        open_engine(folder, "openvinno")
    with pytest.raises(UserError, match="cannot be read"):
        open_engine(tmp_path)


def test_without_its_package_an_engine_says_what_to_install(
    onnx: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "installed", lambda package: package == "onnxruntime")
    assert engines.choices("onnx") == ["onnxruntime"]
    with pytest.raises(UserError, match=r"pip install 'vitrail\[openvino\]'"):
        open_engine(folder)


def test_an_engine_that_cannot_be_imported_gives_way_to_the_next_or_is_named(
    onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engines.import_module

    def broken(name: str) -> object:
        if name.endswith("by_openvino"):
            raise ImportError("libopenvino.so: undefined symbol")
        return real(name)

    monkeypatch.setattr(engines, "import_module", broken)
    assert open_engine(onnx).name == "onnxruntime"
    with pytest.raises(UserError, match=r"openvino is installed and cannot be imported \(libopenvino"):
        open_engine(onnx, "openvino")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_in_a_forked_process_an_engine_says_so_and_does_not_wait_for_ever(folder: Path, model: Model) -> None:
    engine = open_engine(folder, threads=2, hint="throughput")
    images = tiny.images(4, model).numpy()
    engine.run(images)
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()

    def ask() -> None:
        try:
            engine.run(images)
        except Failure as error:
            said.put(str(error))

    process = context.Process(target=ask)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert "open it here" in said.get()


def test_a_missing_file_is_one_line_whatever_the_form(
    model: Model, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export(model, tmp_path / "pt2", Plan("pt2"))
    (tmp_path / "pt2" / "model.pt2").unlink()
    capfd.readouterr()
    with pytest.raises(UserError, match=r"model\.pt2 cannot be read"):
        open_engine(tmp_path / "pt2")
    assert capfd.readouterr() == ("", "")
    shutil.copytree(folder, tmp_path / "gone")
    engine = open_engine(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(UserError, match=r"model\.xml cannot be read"):
        engine.run(tiny.images(1, model).numpy())


@pytest.mark.parametrize("change", ["labels", "batch", "outputs"])
def test_what_contradicts_itself_is_refused(folder: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    values = json.loads(path.read_bytes())
    if change == "labels":
        values["label_names"] = ["a", "b"]
    else:
        values["export"][change] = {"batch": -1, "outputs": ["features"]}[change]
    values["vitrail"]["sha256"]["config.json"] = config_digest(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"config\.json is damaged .*{change}.*export the model again"):
        open_engine(tmp_path / "other")


def test_without_a_number_of_threads_the_environment_decides(
    onnx: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    real, seen = onnxruntime.InferenceSession, []

    def session(path: str, options: onnxruntime.SessionOptions, **named: object) -> object:
        seen.append(options.intra_op_num_threads)
        return real(path, options, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    for said in ("3", "2,1", "many", "0", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        open_engine(onnx, "onnxruntime")
    open_engine(onnx, "onnxruntime", threads=1)
    assert seen == [3, 2, *[engines.usable_cores()] * 3, 1]


def test_opening_torchs_own_form_leaves_the_threads_of_the_process(model: Model, tmp_path: Path) -> None:
    export(model, tmp_path / "out", Plan("pt2"))
    before = torch.get_num_threads()
    other = engines.default_threads() + 1
    try:
        torch.set_num_threads(other)
        open_engine(tmp_path / "out")
        assert torch.get_num_threads() == other
        open_engine(tmp_path / "out", threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
