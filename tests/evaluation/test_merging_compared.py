"""vitrail evaluate --merge: what merging costs and gives, compared with whole images, and the refusals before any work."""

import json
import re

import pytest
import torch
from small_examples import make_folder, make_model

import vitrail
from vitrail.cli.merging import merging, mergings
from vitrail.errors import UserError
from vitrail.evaluation.merging import compare, run_with
from vitrail.evaluation.run import evaluate, predict_logits
from vitrail.model import ViT
from vitrail.model.reduction import Merging


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``model`` and labelled ``images`` in the working folder."""
    monkeypatch.chdir(tmp_path)
    model = make_model()
    vitrail.save(model, "model")
    make_folder(tmp_path / "images" / "test", images=5, seed=1)
    return model


def test_each_amount_is_evaluated_as_the_model_answers_with_it(folder: ViT) -> None:
    samples = vitrail.open_data("images", val_fraction=0, labels=folder.labels).test
    runs = [run_with(folder, samples, how, batch_size=4) for how in (Merging(0), Merging(4), Merging(0.5))]
    assert folder.merge is None
    for run in runs:
        folder.merge = run.merging
        expected = evaluate(folder, samples)
        assert (run.evaluation.top1, run.evaluation.nll) == (expected.top1, pytest.approx(expected.nll))
        assert torch.equal(run.predicted, predict_logits(folder, samples)[0].argmax(1))
    whole, four, half = compare(runs)
    assert (whole.difference, whole.agreement, whole.speed) == (None, 1.0, 1.0)
    assert four.merge == "4"
    assert half.merge == "0.5"
    assert whole.tokens > four.tokens
    assert whole.flops > four.flops
    assert four.agreement == (runs[1].predicted == runs[0].predicted).double().mean().item()
    assert four.difference == pytest.approx(four.top1 - whole.top1)
    with pytest.raises(UserError, match="no run has whole images"):
        compare(runs[1:])


def test_several_amounts_give_a_table_json_and_a_figure(run, folder: ViT, tmp_path) -> None:
    code, out, err = run("evaluate", "model", "images", "--merge", "2,falling:0.5", "--figure", "curve.svg")
    assert code == 0
    assert "whole images are evaluated too" in err
    rows = [line for line in out.splitlines() if "%" in line and "│" in line]
    assert [re.search(r"│ +(\S+) │", row)[1] for row in rows] == ["0", "2", "falling:0.5"]
    assert "whole images" in rows[0]
    assert "curve.svg" in err
    assert "<svg" in (tmp_path / "curve.svg").read_text()
    code, out, err = run("evaluate", "model", "images", "--merge", "0,3", "--json", "-")
    values = json.loads(out)
    assert (code, err) == (0, "")
    assert [score["merge"] for score in values["merges"]] == ["0", "3"]
    for score in values["merges"]:
        alone = json.loads(run("evaluate", "model", "images", "--merge", score["merge"], "--json", "-")[1])
        assert [score[key] for key in ("n", "top1", "top1_ci95")] == [alone[key] for key in ("n", "top1", "top1_ci95")]
        assert score["nll"] == pytest.approx(alone["nll"])
        assert score["images_per_second"] > 0


def test_merging_nothing_is_what_the_model_answers(run, folder: ViT) -> None:
    outputs = [run("evaluate", "model", "images", "--json", "-", *more)[1] for more in ((), ("--merge", "0"))]
    assert outputs[0] == outputs[1]
    assert run("evaluate", "model", "images", "--json", "-", "--merge", "6")[1] != outputs[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--merge", "many"], "give the patches that a block merges"),
        (["--merge", "-1"], "give the patches that a block merges"),
        (["--merge", "1.5"], "give the patches that a block merges"),
        (["--merge", "4,"], "give the patches that a block merges"),
        (["--merge", "4,4"], "4 is written twice"),
        (["--merge", "0,4", "--report", "page.html"], "the page is about one --merge"),
        (["--merge", "0,4", "--calibrate-on", "test"], "name one --merge"),
        (["--merge", "4", "--image-size", "8,16"], "name one --image-size"),
        (["--merge", "4", "--figure", "curve.png"], "needs several amounts, such as --merge 0,4,8,12"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(run, folder: ViT, arguments: list[str], message: str) -> None:
    code, out, err = run("evaluate", "model", "images", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_model_that_cannot_merge_is_refused_by_its_positions(run, folder: ViT) -> None:
    config = folder.config.with_changes(position="relative_bias")
    other = ViT(config)
    other.preprocess, other.labels = folder.preprocess, folder.labels
    vitrail.save(other, "model")
    for amounts in ("4", "0,4"):
        code, _, err = run("evaluate", "model", "images", "--merge", amounts)
        assert code == 2
        assert "relative_bias positions belong to pairs of patches" in err


def test_an_amount_is_read_as_it_is_written() -> None:
    for text, expected in [
        ("8", Merging(8)),
        ("0.5", Merging(0.5)),
        (".5", Merging(0.5)),
        (" falling:8 ", Merging(8, True)),
    ]:
        assert merging(text) == expected
    assert [str(one) for one in mergings("0,8,falling:0.25")] == ["0", "8", "falling:0.25"]
