"""The probe is Google's few-shot regression and scikit-learn's nearest neighbours, on the model's own features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from small_examples import make_folder, make_model

from vitrail.data.open import open_data
from vitrail.errors import UserError
from vitrail.evaluation.probe import draw_shots, fit_ridge, nearest_neighbours, probe
from vitrail.evaluation.run import infer


def clusters(n=300, width=24, classes=5, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    targets = torch.arange(n) % classes
    scale = torch.logspace(-2, 2, width)  # features of very different size, which whitening evens out
    return (centres[targets] + spread * torch.randn(n, width, generator=generator)) * scale, targets


def big_vision(x, y, x_test, classes, l2=1024.0):
    """Equations of big_vision's fewshot_lsr, by eigenvalues, written independently in numpy."""
    x, x_test = x.double().numpy(), x_test.double().numpy()
    mean, std = x.mean(0), x.std(0) + 1e-5
    x, x_test = (np.pad((a - mean) / std, ((0, 0), (0, 1)), constant_values=100.0) for a in (x, x_test))
    y = 2.0 * np.eye(classes)[y.numpy()] - 1.0
    values, q = np.linalg.eigh(x.T @ x)
    return x_test @ (q * (1 / (values + l2))) @ (q.T @ (x.T @ y))


@pytest.mark.parametrize("n", [10, 24, 25, 26, 300])  # fewer images than features, as many, and more
def test_few_shot_is_big_visions(n):
    x, y = clusters(n)
    x_test, _ = clusters(200, seed=1)
    fitted = fit_ridge(x, y, 5)
    scores = torch.nn.functional.pad((x_test.double() - fitted.centre) / fitted.scale, (0, 1), value=100.0)
    expected = torch.as_tensor(big_vision(x, y, x_test, 5))
    assert torch.allclose(scores @ fitted.weights, expected, atol=1e-8)
    assert torch.equal(fitted.predict(x_test), expected.argmax(dim=1))


def test_ridge_agrees_with_scikit_learn():
    x, y = clusters()
    fitted = fit_ridge(x, y, 5)
    white = torch.nn.functional.pad((x.double() - fitted.centre) / fitted.scale, (0, 1), value=100.0).numpy()
    reference = Ridge(alpha=1024.0, fit_intercept=False, solver="cholesky").fit(white, 2 * np.eye(5)[y.numpy()] - 1)
    assert np.allclose(fitted.weights.numpy().T, reference.coef_, atol=1e-8)


def test_more_shots_are_better_and_contain_the_fewer():
    y = clusters()[1].numpy()
    small, large = draw_shots(y, 5, 2, seed=1), draw_shots(y, 5, 10, seed=1)
    assert np.bincount(y[small]).tolist() == [2] * 5
    assert set(small) < set(large)
    assert set(draw_shots(y, 5, 2, seed=2)) != set(small)
    expected = np.random.default_rng(1)  # Google's order of draws
    first = [expected.permutation(np.where(y == c)[0])[:2] for c in range(5)]
    assert small.tolist() == np.concatenate(first).tolist()


def test_neighbours_vote_by_cosine():
    features = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0], [0.1, 5.0], [0.0, 0.5]])
    targets = torch.tensor([0, 0, 1, 1, 1])
    queries = torch.tensor([[90.0, 1.0], [0.01, 0.2]])
    assert nearest_neighbours(features, targets, queries, k=5).tolist() == [0, 1]
    assert nearest_neighbours(features, targets, queries, k=1).tolist() == [0, 1]


@pytest.fixture
def data(tmp_path):
    make_folder(tmp_path / "train", images=6)
    make_folder(tmp_path / "test", images=5, seed=1)
    return open_data(tmp_path, val_fraction=0)


def test_a_probe_reports_what_its_parts_give(data):
    model = make_model()
    found = probe(model, data.train, data.test, name="tiny", shots=(4, 1, 8))
    assert (found.name, found.width, found.train_images, found.test_images, found.k) == ("tiny", 16, 18, 15, 18)
    assert [(few.shots, few.short_classes) for few in found.few_shot] == [(1, 0), (4, 0), (8, 3)]
    x, x_test = infer(model, data.train, features=True), infer(model, data.test, features=True)
    y, y_test = data.train.targets, torch.as_tensor(data.test.targets)
    for few in found.few_shot:
        for seed, accuracy in enumerate(few.accuracies):
            draw = draw_shots(y, 3, few.shots, seed)
            scores = big_vision(x[draw], torch.as_tensor(y[draw]), x_test, 3)
            assert accuracy == pytest.approx(float((torch.as_tensor(scores).argmax(1) == y_test).double().mean()))
        assert few.accuracy == pytest.approx(np.mean(few.accuracies))
        assert few.deviation == pytest.approx(np.std(few.accuracies))
    values = found.to_dict()
    assert values["knn"] == found.knn
    assert [few["accuracy"] for few in values["few_shot"]] == [few.accuracy for few in found.few_shot]


def test_large_data_are_sampled_but_the_shots_are_drawn_from_all(data):
    seen = []
    found = probe(
        make_model(), data.train, data.test, shots=(5,), limit=4, progress=lambda done, total: seen.append(total)
    )
    assert (found.test_images, found.k) == (4, 4)
    assert seen[-1] == 4
    whole = probe(make_model(), data.train, data.test, shots=(5,))
    assert found.few_shot[0].short_classes == whole.few_shot[0].short_classes == 0
    assert seen[0] >= 15


def test_a_probe_refuses_what_it_cannot_compare(data):
    model = make_model()
    with pytest.raises(UserError, match="1 or more, not 0, 5"):
        probe(model, data.train, data.test, shots=(5, 0))
    with pytest.raises(UserError, match="no labels"):
        probe(model, type(data.train)(data.train.names, None, data.train.labels, data.train.read), data.test)
    other = type(data.test)(data.test.names, data.test.targets, ("a", "b", "c"), data.test.read)
    with pytest.raises(UserError, match="same classes"):
        probe(model, data.train, other)
