"""Int8: smaller, near its model, the costliest parts left in float32, and refused where it loses too much."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from vitrail.errors import Failure, UserError
from vitrail.model import Model
from vitrail.model.reduction import Merging
from vitrail.runtimes import quantize
from vitrail.runtimes.engine import open_engine
from vitrail.runtimes.export import Plan, export
from vitrail.runtimes.graph import Deployed, outputs_of, program
from vitrail.runtimes.quantize import Quantiser, quantise
from vitrail.runtimes.write import WRITERS, Wanted

pytestmark = pytest.mark.slow
FORMS = ["openvino", "onnx"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders of coarse random colours."""
    rng = np.random.default_rng(0)
    for label in tiny.LABELS:
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(12):
            colours = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            colours.resize((60, 40)).save(tmp_path / "photos" / label / f"{i:02d}.png")
    return tmp_path / "photos"


def quantiser(model: Model, form: str, source: Path, target: Path) -> tuple[Quantiser, torch.export.ExportedProgram]:
    source.mkdir()
    target.mkdir()
    wanted = Wanted((3, *tiny.SIZE), None, outputs_of(model))
    graph = program(Deployed(model, model.preprocess), wanted.image_shape, None)
    WRITERS[form](graph, source, wanted)
    return Quantiser(form, source, target, wanted, True, False, tiny.images(4, model).numpy()), graph


@pytest.mark.parametrize("form", FORMS)
def test_an_int8_model_is_near_its_model_and_says_what_it_costs(form: str, photos: Path, tmp_path: Path) -> None:
    model = tiny.model(width=64, mlp_width=128, depth=3)
    done = export(model, tmp_path / "out", Plan(form, int8=True, calibrate=str(photos), max_loss=15))
    images = tiny.images(16, model)
    expected = tiny.answers(model, images)["logits"].numpy()
    found = open_engine(tmp_path / "out", threads=1).run(images.numpy())["logits"]
    assert 0 < np.abs(found - expected).mean() < 0.1 * np.abs(expected).max()
    for check in done.checks:
        assert check.images == 18  # the other half calibrates
        assert check.changed.before is not None
        assert check.changed.after is not None
    assert done.exported.precision == "int8"
    assert "Int8" in (tmp_path / "out" / "README.md").read_text()
    export(model, tmp_path / "float", Plan(form))
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).glob("model.[bo]*")) for name in ("out", "float")]
    assert sizes[0] < 0.7 * sizes[1]  # the graph itself counts in so small a model


@pytest.mark.parametrize("form", FORMS)
def test_the_block_that_costs_most_stays_in_float32(form: str, tmp_path: Path) -> None:
    """The judge finds fault with every model but the one whose first block is exact."""
    model = tiny.model(depth=3)
    job, graph = quantiser(model, form, tmp_path / "float", tmp_path / "int8")
    always, parts = job.operations(graph)
    assert set(parts) == {"patch_embed", "blocks.0", "blocks.1", "blocks.2"}
    assert len(always) >= 3 + 4  # attention of each block; and of the class token in the last, with the head
    written: list[tuple[set[str], bool]] = []

    def judge(quick: bool) -> tuple[str | None, float]:
        ignored, wrote_quick = written[-1]
        assert wrote_quick == quick
        exact = set(parts["blocks.0"]) <= ignored
        # alone in int8 is what is not ignored
        return (None if exact and not quick else "it loses"), 0.1 if exact else 1.0

    class Recording(Quantiser):
        def write(self, ignored, *, quick=False) -> None:  # type: ignore[no-untyped-def]
            assert set(always) <= set(ignored)
            written.append((set(ignored), quick))
            super().write(ignored, quick=quick)

    kept, _ = quantise(Recording(**vars(job)), graph, judge, lambda text: None)
    assert kept == ["blocks.0"]
    assert [quick for _, quick in written] == [False, *[True] * len(parts), False]


def test_more_and_more_blocks_stay_in_float32_until_it_is_good_enough(tmp_path: Path) -> None:
    model = tiny.model(depth=6)
    job, graph = quantiser(model, "openvino", tmp_path / "float", tmp_path / "int8")
    parts = job.operations(graph)[1]
    written: list[int] = []

    class Counting(Quantiser):
        def write(self, ignored, *, quick=False) -> None:  # type: ignore[no-untyped-def]
            written.append(sum(set(names) <= set(ignored) for names in parts.values()))

    def judge(quick: bool) -> tuple[str | None, float]:
        return (None if written[-1] == 6 else "it loses"), 1.0

    kept, _ = quantise(Counting(**vars(job)), graph, judge, lambda text: None)
    assert len(kept) == 6
    assert kept == [part for part in parts if part in kept]  # in the model's order
    assert written[len(parts) + 1 :] == [6]  # of 7 equal parts one may err, if half of the error is to be left


def test_parts_left_in_float32_bring_the_answers_nearer(tmp_path: Path) -> None:
    import openvino

    model = tiny.model(depth=2)
    job, graph = quantiser(model, "openvino", tmp_path / "float", tmp_path / "int8")
    images = tiny.images(16, model)
    expected = tiny.answers(model, images)["features"].numpy()
    core, (always, parts), errors = openvino.Core(), job.operations(graph), []
    every = [name for names in parts.values() for name in names]
    for ignored in ([], always, [*always, *parts["blocks.0"]], [*always, *every]):
        job.write(ignored)
        compiled = core.compile_model(tmp_path / "int8" / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        errors.append(np.abs(compiled([images.numpy()])["features"] - expected).mean())
    assert errors[3] < 1e-4 < errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize(("most", "advice"), [(300, "more images, or such as"), (18, "images such as")])
def test_nothing_is_written_where_int8_loses_too_much(
    most: int, advice: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And more images are asked for where more would be used."""
    from vitrail.runtimes.check import Check

    monkeypatch.setattr(Check, "within", lambda self, loss: "5.00 % of first labels change, and 1 % may")
    monkeypatch.setattr(quantize, "CALIBRATION", most)
    with pytest.raises(
        Failure, match=rf"int8 loses too much \(5.00 % of first labels change.*: calibrate with {advice} the"
    ):
        export(tiny.model(), tmp_path / "out", Plan("openvino", int8=True, calibrate=str(photos)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "choices"),
    [
        ("openvino", {"pool": "avg"}),
        ("onnx", {"position": "rotary2d"}),
        ("onnx", {"position": "learned", "position_site": "layers"}),
    ],
)
def test_models_that_merge_tokens_become_int8_whatever_their_pooling_and_positions(
    form: str, choices: dict[str, str], photos: Path, tmp_path: Path
) -> None:
    plan = Plan(form, int8=True, calibrate=str(photos), merge=Merging(2), max_loss=100.0)
    done = export(tiny.model(depth=2, **choices), tmp_path / "out", plan)
    assert all(check.mean < 0.1 * check.scale for check in done.checks)  # int8, with random weights


@pytest.mark.parametrize("form", FORMS)
def test_convolutions_belong_to_parts_which_can_stay_in_float32(form: str, tmp_path: Path) -> None:
    hybrid = tiny.model(stem="hybrid", patch_size=16, stem_layers=(1, 1))
    for name, model, expected in (
        ("hybrid", hybrid, {"patch_embed", "blocks.0"}),
        ("resnet", tiny.resnet(), {"stem", "stages.0", "stages.1"}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        job, graph = quantiser(model, form, folder / "float", folder / "int8")
        parts = dataclasses.replace(job, transformer=name == "hybrid").operations(graph)[1]
        assert expected <= parts.keys()
        convolutions = sum("conv" in str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        named = sum("conv" in operation.lower() for names in parts.values() for operation in names)
        assert named >= convolutions


def test_images_of_one_colour_are_refused_to_calibrate_with(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "black").mkdir()
    for i in range(12):
        Image.new("RGB", (40, 40), (i, i, i)).save(tmp_path / "black" / f"{i}.png")
    with pytest.raises(UserError, match=r"--calibrate .*black: 6 of 6 images are of one colour"):
        export(tiny.model(), tmp_path / "out", Plan("onnx", int8=True, calibrate=str(tmp_path / "black")))
    assert not (tmp_path / "out").exists()
