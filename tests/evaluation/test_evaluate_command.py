"""vitrail evaluate and vitrail probe: what a person and a machine get, and the refusals before any work."""

import json
import re
from importlib import import_module

import pytest
from small_examples import make_folder, make_model

import vitrail
from vitrail.cli import main
from vitrail.data import cache
from vitrail.recipes import files
from vitrail.recipes.recipe import Data


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the program in ``tmp_path`` and gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITRAIL_DEVICE", "cpu")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["vitrail", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def model(tmp_path):
    vitrail.save(make_model(), tmp_path / "model")
    return "model"


@pytest.fixture
def images(tmp_path):
    make_folder(tmp_path / "images" / "train")
    make_folder(tmp_path / "images" / "test", images=5, seed=1)
    return "images"


def test_evaluate_shows_accuracy_classes_and_mistakes(run, model, images):
    code, out, _ = run("evaluate", model, images)
    assert code == 0
    result = vitrail.evaluate(vitrail.load(model), images)
    assert f"{result.top1:.2%}" in out
    assert "95 % interval" in out
    assert result.mistakes[0].name in out
    assert "test of images" in out


def test_json_is_all_that_standard_output_holds(run, model, images):
    code, out, _ = run("evaluate", model, images, "--json", "-", "--calibrate-on", "train")
    values = json.loads(out)
    result = vitrail.evaluate(vitrail.load(model), images)
    assert code == 0
    assert values["top1"] == result.top1
    assert values["confusion"] == result.confusion()
    assert (values["split"], values["image_size"], values["temperature_from"]) == ("test", [16, 16], "train")


def test_json_and_report_are_written_to_files(run, model, images, tmp_path):
    code, out, err = run(
        "evaluate", model, images, "--json", "scores.json", "--report", "page.html", "--split", "train"
    )
    assert code == 0
    trained_on = vitrail.open_data(images, val_fraction=Data().val_fraction).train
    assert json.loads((tmp_path / "scores.json").read_text())["n"] == len(trained_on) < 12
    page = (tmp_path / "page.html").read_text()
    assert "model on images" in page
    assert page.count("<img ") == len(vitrail.evaluate(vitrail.load(model), trained_on).mistakes)
    assert "top-1" in out
    assert "page.html" in err


def test_images_without_splits_are_all_evaluated_and_it_says_so(run, model, images):
    code, out, err = run("evaluate", model, "images/test", "--json", "-")
    assert code == 0
    assert json.loads(out)["n"] == 15
    assert "all 15 images are evaluated" in err
    _, out, _ = run("evaluate", model, "images/test", "--split", "val", "--json", "-")
    held_out = vitrail.open_data("images/test", val_fraction=Data().val_fraction).val
    assert json.loads(out)["n"] == len(held_out) < 15


def test_another_image_size_is_evaluated(run, model, images):
    _, out, _ = run("evaluate", model, images, "--image-size", "24x32", "--json", "-")
    _, same, _ = run("evaluate", model, images, "--json", "-")
    assert json.loads(out)["image_size"] == [24, 32]
    assert json.loads(out)["nll"] != json.loads(same)["nll"]


def test_what_training_held_out_is_known_from_the_run(run, model, images, tmp_path):
    (tmp_path / "recipe.yaml").write_text("epochs: 1\ndata: {val_fraction: 0.6}\n")  # model/ is this run's model
    _, out, _ = run("evaluate", model, "images/test", "--split", "val", "--json", "-")
    assert json.loads(out)["n"] == len(vitrail.open_data("images/test", val_fraction=0.6).val) > 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modell", "images"], "did you mean model"),
        (["model", "imagse"], "no such folder"),
        (["model", "images", "--split", "val2"], "unknown split 'val2'"),
        (["model", "images", "--image-size", "18"], "nearest sizes are 16x16 and 20x20"),
        (["model", "images", "--json", "nowhere/a.json"], "no folder nowhere"),
        (["model", "images", "--report", "nowhere/a.html"], "no folder nowhere"),
        (["model", "images", "--calibrate-on", "test"], "evaluated images themselves"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(run, model, images, arguments, message):
    code, out, err = run("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture
def damaged(tmp_path, images):
    """Two of the test part's images cannot be read, and the last of those that training keeps of the train part."""
    train = vitrail.open_data(images, val_fraction=Data().val_fraction).train
    for name in ("test/ant/0.png", "test/cat/3.png", train.names[-1]):
        file = tmp_path / images / name
        file.write_bytes(file.read_bytes()[:90])
    return images


@pytest.mark.parametrize(
    "command", [["evaluate", "model"], ["evaluate", "model", "--calibrate-on", "train"], ["probe"]]
)
def test_bad_images_are_counted_and_named_with_the_way_out(run, model, damaged, command):
    code, out, err = run(*command, damaged)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "cannot be used: " in err
    assert "--skip-bad" in err
    if "--calibrate-on" not in command and command != ["probe"]:
        assert "2 of 15 images cannot be used: test/ant/0.png: " in err
        assert "test/cat/3.png: " in err


@pytest.mark.parametrize("fits", [True, False])
def test_bad_images_are_left_out_on_request(run, model, damaged, monkeypatch, fits):
    if not fits:
        monkeypatch.setattr(cache, "CACHE_BYTES", 100)
    code, out, err = run("evaluate", model, damaged, "--skip-bad", "--json", "-", "--calibrate-on", "train")
    assert code == 0
    assert "2 of 15 images cannot be used and are left out: test/ant/0.png: " in err
    dataset = vitrail.open_data(damaged, val_fraction=Data().val_fraction)
    train = dataset.train.subset(range(len(dataset.train) - 1))
    assert f"1 of {len(dataset.train)} images cannot be used and are left out: {dataset.train.names[-1]}: " in err
    bad = ("test/ant/0.png", "test/cat/3.png")
    test = dataset.test.subset([i for i, name in enumerate(dataset.test.names) if name not in bad])
    expected = vitrail.evaluate(vitrail.load(model), test, calibration=train)
    values = json.loads(out)
    assert values["n"] == 13
    assert values["nll"] == pytest.approx(expected.nll)
    assert values["temperature"] == pytest.approx(expected.temperature)


def test_a_probe_leaves_bad_images_out_on_request(run, model, damaged):
    code, out, err = run("probe", damaged, "--init", model, "--shots", "1", "--skip-bad", "--json")
    assert code == 0
    found = json.loads(out)["models"][0]
    assert (found["train_images"], found["test_images"]) == (11, 13)
    assert "1 of 12 images" in err


def test_images_that_training_left_aside_are_told_of(run, model, images, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "model").rename(tmp_path / "run" / "model")
    for fraction in (0.5, 1.0):
        recipe = files.from_dict({"epochs": 1, "data": {"source": str(tmp_path / images), "fraction": fraction}})
        files.save(recipe, tmp_path / "run" / "recipe.yaml")
        for arguments, told in ((["--split", "train"], fraction < 1), ([], False)):
            code, _, err = run("evaluate", "run/model", images, *arguments)
            assert code == 0
            assert ("data.fraction 0.5" in err) == told


def test_probe_puts_models_side_by_side(run, model, images):
    code, out, _ = run("probe", images, "--init", model, "--init", "Ti/8", "--shots", "1,3", "--image-size", "16")
    assert code == 0
    assert "model" in out
    assert "Ti/8, random weights" in out
    assert "3-shot" in out


def test_probe_without_a_model_takes_random_weights_and_small_images_stay_small(run, images):
    code, out, _ = run("probe", images, "--model", "Ti/4", "--shots", "2", "--json")
    found = json.loads(out)["models"][0]
    assert code == 0
    assert (found["name"], found["width"], found["train_images"]) == ("Ti/4, random weights", 192, 12)
    again = json.loads(run("probe", images, "--model", "Ti/4", "--shots", "2", "--json")[1])["models"][0]
    assert again["few_shot"] == found["few_shot"]


def test_probe_says_where_classes_have_too_few_images(run, model, images):
    _, out, err = run("probe", images, "--init", model, "--shots", "2,all")
    assert re.search(r"2-shot.*all.*k-NN", out)
    assert "shots:" not in err
    _, _, err = run("probe", images, "--init", model, "--shots", "2,9")
    assert "9 shots: 3 of 3 classes have fewer training images" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images", "--shots", "1,x"], "write numbers"),
        (["images", "--init", "nothing"], "no model at nothing"),
        (["images", "--model", "S/16x"], "S/16"),
        (["images", "--init", "model", "--image-size", "18"], "nearest sizes"),
    ],
)
def test_probe_refuses_unusable_input(run, model, images, arguments, message):
    code, out, err = run("probe", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_several_sizes_give_a_table_with_the_own_size_among_them(run, model, images):
    code, out, err = run("evaluate", model, images, "--image-size", "8,24x32")
    assert code == 0
    assert "own size, 16x16, is evaluated too" in err
    rows = [line for line in out.splitlines() if re.search(r"│ +\d+x\d+ │", line)]
    assert [re.search(r"\d+x\d+", row)[0] for row in rows] == ["16x16", "8x8", "24x32"]
    assert "own size" in rows[0]
    for row, size in zip(rows, ((16, 16), (8, 8), (24, 32)), strict=True):
        result = vitrail.evaluate(vitrail.resize(vitrail.load(model), size), images)
        assert f"{result.top1:.2%}" in row
        assert f"{result.nll:.4f}" in row


def test_several_sizes_as_json_are_each_what_one_size_alone_gives(run, model, images):
    code, out, err = run("evaluate", model, images, "--image-size", "8,16,24x32", "--json", "-")
    values = json.loads(out)
    assert (code, err) == (0, "")
    assert {key: values[key] for key in ("model", "data", "split", "own_size")} == {
        "model": "model",
        "data": "images",
        "split": "test",
        "own_size": [16, 16],
    }
    assert [size["image_size"] for size in values["sizes"]] == [[8, 8], [16, 16], [24, 32]]
    assert [size["tokens"] for size in values["sizes"]] == [5, 17, 49]
    for size in values["sizes"]:
        text = "x".join(map(str, size["image_size"]))
        alone = json.loads(run("evaluate", model, images, "--image-size", text, "--json", "-")[1])
        for key in ("n", "top1", "top1_ci95", "nll"):
            assert size[key] == alone[key]
        assert size["images_per_second"] > 0
    own, other = values["sizes"][1], values["sizes"][2]
    assert (own["difference"], own["difference_ci95"]) == (None, None)
    assert other["difference"] == pytest.approx(other["top1"] - own["top1"])
    assert other["difference_ci95"][0] <= other["difference"] <= other["difference_ci95"][1]


def test_several_sizes_leave_the_same_bad_images_out_and_look_once(run, model, damaged, monkeypatch):
    looks = []
    own = cache.check_images
    monkeypatch.setattr(cache, "check_images", lambda *args, **kwargs: looks.append(1) or own(*args, **kwargs))
    code, out, err = run("evaluate", model, damaged, "--image-size", "8,16", "--skip-bad", "--json", "-")
    assert code == 0
    assert [size["n"] for size in json.loads(out)["sizes"]] == [13, 13]
    assert err.count("are left out") == len(looks) == 1
    code, out, err = run("evaluate", model, damaged, "--image-size", "8,16")
    assert (code, out) == (2, "")
    assert "--skip-bad" in err


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_curve_is_drawn(run, model, images, tmp_path, suffix):
    for name in ("one", "two"):
        code, _, err = run("evaluate", model, images, "--image-size", "8,16,24x32", "--figure", f"{name}.{suffix}")
        assert code == 0
        assert f"figure: {name}.{suffix}" in err
    drawn = (tmp_path / f"one.{suffix}").read_bytes()
    assert drawn == (tmp_path / f"two.{suffix}").read_bytes()
    if suffix == "svg":
        text = drawn.decode()
        assert all(words in text for words in ("24x32", "FLOPs of one image", "own size", "another shape", "15 images"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-size", "8,,16"], "one comma between"),
        (["--image-size", "8,8x8"], "written twice"),
        (["--image-size", "8,18"], "nearest sizes are 16x16 and 20x20"),
        (["--image-size", "8,16384"], "image size 16384x16384 needs about "),
        (["--image-size", "8,16", "--report", "page.html"], "the page is about one size"),
        (["--image-size", "8,16", "--calibrate-on", "train"], "no temperature"),
        (["--image-size", "8,16", "--figure", "curve.gif"], "must be .png or .svg"),
        (["--image-size", "8,16", "--figure", "nowhere/curve.png"], "no folder nowhere"),
        (["--image-size", "8", "--figure", "curve.png"], "needs several sizes"),
        (["--figure", "curve.png"], "needs several sizes"),
    ],
)
def test_what_does_not_go_with_the_sizes_is_refused_before_any_work(
    run, model, images, monkeypatch, arguments, message
):
    monkeypatch.setattr(import_module("vitrail.weights.load"), "load_found", None)
    code, out, err = run("evaluate", model, images, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
