"""The numbers of an evaluation agree with scikit-learn, torchmetrics and what can be counted by hand."""

import json
import math

import pytest
import torch
from sklearn import metrics as reference
from torch.nn.functional import cross_entropy

from vitrail.errors import UserError
from vitrail.evaluation.metrics import evaluate_logits, loss_and_top1, score_images, wilson_interval


def guesses(n=500, classes=7, seed=0, sharpness=2.0):
    """Random logits that favour the right class somewhat, and their targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), targets] += 1
    return logits * sharpness, targets


def labels(classes=7):
    return tuple(f"class {c}" for c in range(classes))


def test_headline_numbers_agree_with_the_reference_libraries():
    logits, targets = guesses()
    result = evaluate_logits(logits, targets, labels())
    assert result.n == 500
    assert result.top1 == reference.accuracy_score(targets, logits.argmax(1))
    assert result.top5 == reference.top_k_accuracy_score(targets, logits.numpy(), k=5)
    assert result.nll == pytest.approx(float(cross_entropy(logits.double(), targets)), abs=1e-12)
    assert (result.nll, result.top1) == loss_and_top1(logits, targets)


def test_class_scores_agree_with_scikit_learn():
    logits, targets = guesses()
    expected = reference.precision_recall_fscore_support(targets, logits.argmax(1))
    result = evaluate_logits(logits, targets, labels())
    for c, score in enumerate(result.per_class):
        assert (score.label, score.n) == (f"class {c}", expected[3][c])
        assert (score.precision, score.recall, score.f1) == pytest.approx(tuple(column[c] for column in expected[:3]))
    assert result.confusion() == reference.confusion_matrix(targets, logits.argmax(1)).tolist()


def test_a_class_without_images_has_no_recall_rather_than_zero():
    logits, targets = guesses(classes=4)
    logits[:, 3] = -50
    logits[targets == 2, 1] += 20
    logits[targets != 3, 2] = -60
    result = evaluate_logits(logits[targets != 3], targets[targets != 3], labels(4))
    absent, never_predicted = result.per_class[3], result.per_class[2]
    assert (absent.n, absent.recall, absent.precision, absent.f1) == (0, None, None, None)
    assert (never_predicted.recall, never_predicted.precision, never_predicted.f1) == (0, None, 0)


def test_top5_is_left_out_where_it_says_nothing():
    assert evaluate_logits(*guesses(classes=5), labels(5)).top5 is None
    assert evaluate_logits(*guesses(classes=6), labels(6)).top5 < 1


def test_equal_logits_count_as_the_first_class_only():
    logits, targets = torch.full((12, 6), 0.25), torch.arange(12) % 6
    scores = score_images(logits, targets)
    assert scores.predicted.tolist() == [0] * 12
    assert scores.rank.tolist() == targets.tolist()


def test_mistakes_are_the_surest_wrong_ones_first():
    logits, targets = guesses()
    names = [f"image {i}.jpg" for i in range(500)]
    mistakes = evaluate_logits(logits, targets, labels(), names, top_mistakes=5).mistakes
    probability, predicted = logits.double().softmax(1).max(1)
    wrong = [i for i in range(500) if predicted[i] != targets[i]]
    expected = sorted(wrong, key=lambda i: -float(probability[i]))[:5]
    assert [m.index for m in mistakes] == expected
    first = mistakes[0]
    assert first.name == f"image {expected[0]}.jpg"
    assert (first.target, first.predicted) == (f"class {targets[expected[0]]}", f"class {predicted[expected[0]]}")
    assert first.probability == pytest.approx(float(probability[expected[0]]))
    assert first.target_probability < first.probability


def test_the_most_confused_pairs_leave_out_the_right_predictions():
    logits, targets = guesses()
    result = evaluate_logits(logits, targets, labels())
    confused = result.most_confused(1000)
    assert sum(pair.n for pair in confused) == 500 - round(result.top1 * 500)
    assert all(pair.target != pair.predicted for pair in confused)
    assert [pair.n for pair in confused] == sorted((pair.n for pair in confused), reverse=True)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 10), (353, 360), (7, 1_000_000)])
def test_wilson_interval_solves_its_equation(right, n):
    low, high = wilson_interval(right, n)
    share = right / n
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):  # |share - bound| = z * sqrt(bound (1 - bound) / n)
        assert abs(share - bound) == pytest.approx(1.959963985 * math.sqrt(bound * (1 - bound) / n), rel=1e-6, abs=1e-9)


def test_the_result_is_plain_json_with_the_documented_keys():
    logits, targets = guesses()
    result = evaluate_logits(logits, targets, labels())
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"n", "top1", "top1_ci95", "top5", "nll", "ece", "temperature", "per_class", "confusion"} <= set(values)
    assert values["top1_ci95"] == list(result.top1_ci95)
    assert values["per_class"][3]["label"] == "class 3"
    assert values["confusion"] == result.confusion()
    assert sum(n for _, _, n in values["pairs"]) == 500


def test_many_classes_are_written_without_a_full_matrix():
    logits, targets = guesses(n=300, classes=1200)
    values = evaluate_logits(logits, targets, labels(1200)).to_dict()
    assert values["confusion"] is None
    assert sum(n for _, _, n in values["pairs"]) == 300


def test_slices_of_rows_do_not_change_the_result(monkeypatch):
    logits, targets = guesses()
    whole = evaluate_logits(logits, targets, labels())
    monkeypatch.setattr("vitrail.evaluation.calibration._SLICE_ELEMENTS", 7 * 33)
    sliced = evaluate_logits(logits, targets, labels())
    assert sliced.mistakes == whole.mistakes
    assert (sliced.nll, sliced.ece, sliced.temperature) == pytest.approx((whole.nll, whole.ece, whole.temperature))


def test_logits_that_are_not_finite_name_the_first_image():
    logits, targets = guesses(n=20)
    logits[4, 2], logits[9] = math.nan, math.inf
    with pytest.raises(UserError, match=r"not finite for 2 of 20 images \(first: 4\.jpg\)"):
        evaluate_logits(logits, targets, labels(), [f"{i}.jpg" for i in range(20)])


def test_what_does_not_fit_is_refused():
    logits, targets = guesses(n=20)
    with pytest.raises(UserError, match="7 outputs, but there are 6 class names"):
        evaluate_logits(logits, targets, labels(6))
    with pytest.raises(UserError, match="target 9 is no class"):
        evaluate_logits(logits, torch.full((20,), 9), labels())
    with pytest.raises(UserError, match="no images"):
        evaluate_logits(logits[:0], targets[:0], labels())
    with pytest.raises(ValueError, match="do not fit together"):
        evaluate_logits(logits, targets[:5], labels())
