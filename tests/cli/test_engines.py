"""How a model's answers are computed is said wherever its numbers are: which engine, which precision, which tokens."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrail
from exported_models import small_model
from vitrail.cli.engines import computed
from vitrail.model.cost import flops, readable
from vitrail.model.reduction import Merging


def test_an_evaluation_says_how_tokens_were_merged(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    model = small_model()
    vitrail.save(model, tmp_path / "model")
    rng = np.random.default_rng(3)
    for label in model.labels:
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{i}.png")
    pages, values = {}, {}
    for name, merge in (("whole", []), ("merged", ["--merge", "falling:2"])):
        file, page = tmp_path / f"{name}.json", tmp_path / f"{name}.html"
        files = ("--json", file, "--report", page, "--workers", 0)
        code, _, err = run("evaluate", tmp_path / "model", tmp_path / "data", *files, *merge)
        assert code == 0, err
        values[name] = json.loads(file.read_text())
        pages[name] = dict(re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page.read_text()))
    assert [values["whole"][key] for key in ("merge", "engine", "precision")] == [None, "torch", "float32"]
    assert [values["merged"][key] for key in ("merge", "engine", "precision")] == ["falling:2", "torch", "float32"]
    assert "merged tokens" not in pages["whole"]
    assert pages["merged"]["merged tokens"].startswith("falling:2")
    less = sum(flops(model.config, Merging(2, falling=True)).values())
    assert less < sum(flops(model.config).values())
    assert pages["merged"]["FLOPs of one image"] == readable(less, "FLOPs")


class Opened:
    """What is looked at of an exported model that has been opened."""

    name = "openvino"

    def __init__(self, merge: str | None) -> None:
        self.exported = type("Exported", (), {"precision": "int8", "details": {"merge": merge}})()

    def run(self) -> None: ...


@pytest.mark.parametrize("merging", [None, Merging(8), Merging(0.5), Merging(1e-5), Merging(3, falling=True)])
def test_what_an_export_says_of_its_tokens_is_read_back(merging: Merging | None) -> None:
    found = computed(Opened(None if merging is None else str(merging)))  # type: ignore[arg-type]
    assert (found.engine, found.precision, found.merge) == ("openvino", "int8", merging)
    assert computed(Opened("0")).merge is None  # type: ignore[arg-type]
