"""What an export writes, what it compares, and that a wrong one is never left behind."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from vitrail.errors import Failure, UserError
from vitrail.runtimes import export as exporting
from vitrail.runtimes.check import Changed, Check
from vitrail.runtimes.export import Plan, export
from vitrail.runtimes.exported import read_exported
from vitrail.weights.folder import save, sha256


def test_the_folder_says_what_it_is(tmp_path: Path) -> None:
    model = tiny.model()
    done = export(model, tmp_path / "out", Plan("openvino"))
    read = read_exported(tmp_path / "out")
    assert read == done.exported
    assert (read.config, read.preprocess, read.labels) == (model.config, model.preprocess, tiny.LABELS)
    assert read.digests == {name: sha256(tmp_path / "out" / name) for name in ("model.xml", "model.bin")}
    assert set(read.details["versions"]) == {"vitrail", "torch", "openvino"}
    (check,) = read.details["checks"]
    assert check["images"] == 64
    assert check["largest"] < 1e-4
    assert check["changed"]["agreement"] == 1
    assert set(check["speed"]) == {"1", "8"}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "`cat`, `dog`, `owl`" in card
    assert "as none were named" in card
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["out"]


@pytest.mark.parametrize("form", ["pt2", pytest.param("openvino", marks=pytest.mark.slow)])
def test_an_export_that_answers_otherwise_is_not_left_behind(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(program, folder, wanted):  # type: ignore[no-untyped-def]
        from vitrail.runtimes.graph import Deployed
        from vitrail.runtimes.graph import program as graph

        model = tiny.model()
        model.norm.bias.data += 0.05
        return exporting_write(graph(Deployed(model, model.preprocess), wanted.image_shape, None), folder, wanted)

    exporting_write = exporting.WRITERS[form]
    monkeypatch.setattr(exporting, "WRITERS", {form: other})
    with pytest.raises(Failure, match="does not answer as its model: answers of .* differ"):
        export(tiny.model(), tmp_path / "out", Plan(form))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_only_an_exported_folder_is_replaced(tmp_path: Path) -> None:
    model = tiny.model()
    save(model, tmp_path / "weights")
    with pytest.raises(UserError, match="is not an exported model: choose another place"):
        export(model, tmp_path / "weights", Plan("pt2"))
    assert (tmp_path / "weights" / "model.safetensors").is_file()
    export(model, tmp_path / "out", Plan("pt2"))
    export(model, tmp_path / "out", Plan("openvino"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.bin",
        "model.xml",
    ]


def test_the_model_itself_stays_as_it_is(tmp_path: Path) -> None:
    model = tiny.model(position="rotary2d")
    images = tiny.images(2, model)
    before = tiny.answers(model, images)["logits"]
    export(model, tmp_path / "out", Plan("pt2"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert np.array_equal(tiny.answers(model, images)["logits"], before)


def test_an_unknown_newer_format_is_refused(tmp_path: Path) -> None:
    export(tiny.model(), tmp_path / "out", Plan("pt2"))
    path = tmp_path / "out" / "config.json"
    values = json.loads(path.read_text())
    values["export"]["format"] = 2
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="format 2; this vitrail reads up to 1: upgrade it"):
        read_exported(tmp_path / "out")


def check(similarity: float = 1.0, agreement: float | None = 1.0, **quality: float) -> Check:
    from vitrail.runtimes.check import Quality

    before, after = (
        (Quality(value, 0.1, 0.1) for value in (quality["before"], quality["after"])) if quality else (None, None)
    )
    changed = Changed(similarity, agreement, before, after)
    return Check("openvino", 300, "photos", 0.1, 0.01, 5.0, (0.9, 0.9), changed, {})


def test_the_loss_that_is_allowed_counts_labels_and_accuracy() -> None:
    assert check(agreement=0.99).within(0.5) is None
    assert "1.33 % of first labels change, and 1 % may" in str(check(agreement=1 - 4 / 300).within(0.5))
    assert check(agreement=None, similarity=0.995).within(0.5) is None
    assert "cosine" in str(check(agreement=None, similarity=0.98).within(0.5))
    assert check(before=0.9, after=0.895).within(0.5) is None or np.isclose(0.9 - 0.895, 0.005)
    assert "0.60 points of accuracy are lost" in str(check(before=0.9, after=0.894).within(0.5))
    assert check(before=0.9, after=0.95).within(0.5) is None
    assert check(agreement=float("nan")).within(0.5) is not None
