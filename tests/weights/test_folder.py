"""What was saved comes back, and what was damaged does not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vitrail
from positions_cases import PLACED
from vitrail.errors import UserError
from vitrail.model import ViT
from vitrail.model.config import POSITION_SITES
from vitrail.weights import found as found_module
from vitrail.weights import load_folder, read
from vitrail.weights.card import architecture
from vitrail.weights.folder import sha256
from vitrail.weights.load import load_found

Make = Callable[..., ViT]

CHOICES = [
    {},
    {"stem": "conv", "pool": "avg", "position": "sincos2d"},
    {"pool": "map", "class_token": False, "registers": 2, "layer_scale": 0.1},
    {"representation": 7, "position": "none", "head_width": 5},
    {"channels": 1, "classes": 0},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_saved_model_comes_back_the_same(tmp_path: Path, make_model: Make, choice: dict) -> None:
    model = make_model(**choice)
    vitrail.save(model, tmp_path / "m")
    again = vitrail.load(tmp_path / "m")
    assert (again.config, again.preprocess, again.labels) == (model.config, model.preprocess, model.labels)
    assert not again.training
    assert all(p.requires_grad and not p.is_meta for p in again.parameters())
    images = torch.randn(3, model.config.channels, 32, 48)
    torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "site"), PLACED)
def test_every_position_embedding_comes_back_to_the_bit(tmp_path: Path, make_model: Make, kind: str, site: str) -> None:
    model = make_model(position=kind, position_site=site, registers=1, depth=1)
    vitrail.save(model, tmp_path)
    again = vitrail.load(tmp_path)
    assert again.config.site == site
    assert again.state_dict().keys() == model.state_dict().keys()
    for size in ((32, 48), (48, 24)):
        images = torch.randn(2, 3, *size)
        torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)


def test_a_loaded_model_trains(tmp_path: Path, make_model: Make) -> None:
    vitrail.save(make_model(), tmp_path)
    model = vitrail.load(tmp_path).train()
    before = model.head.weight.detach().clone()
    model(torch.randn(2, 3, 32, 48)).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(before, model.head.weight)
    assert torch.equal(vitrail.load(tmp_path).head.weight, before)  # the file is not the model's memory


def test_a_flipped_byte_is_noticed(tmp_path: Path, make_model: Make) -> None:
    vitrail.save(make_model(), tmp_path)
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-7] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        vitrail.load(tmp_path)


@pytest.mark.parametrize("headers_read", [False, True])
def test_a_model_that_a_run_writes_again_while_it_is_read_is_read_anew(
    headers_read: bool, tmp_path: Path, make_model: Make
) -> None:
    folder, newer = tmp_path / "m", make_model()
    vitrail.save(make_model(), folder)
    with torch.no_grad():
        newer.head.bias.add_(1)
    description = read(folder)
    if headers_read:
        assert description.found.shapes
    vitrail.save(newer, folder)
    torch.testing.assert_close(load_found(description).state_dict(), newer.state_dict(), rtol=0, atol=0)
    weights = folder / "model.safetensors"
    description = read(folder)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")  # whoever damages it writes no new digest
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_found(description)


def test_another_model_in_the_place_of_the_one_that_is_read_is_refused(tmp_path: Path, make_model: Make) -> None:
    folder, other = tmp_path / "m", make_model()
    vitrail.save(make_model(), folder)
    description = read(folder)
    other.labels = tuple("vwxyz")
    with torch.no_grad():
        other.head.bias.add_(1)
    vitrail.save(other, folder)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or was changed"):
        load_found(description)


def test_a_model_that_never_stops_being_replaced_is_refused_in_the_end(
    tmp_path: Path, make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model, real, looked = tmp_path / "m", make_model(), found_module.look, []
    vitrail.save(model, folder)

    def replaced(path: Path, said: dict | None = None) -> found_module.Found:
        found = real(path, said)
        looked.append(path)
        with torch.no_grad():
            model.head.bias.add_(1)
        vitrail.save(model, folder)
        return found

    description = read(folder)
    monkeypatch.setattr(found_module, "look", replaced)
    replaced(folder)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or was changed"):
        load_found(description)
    assert len(looked) == 3


def test_a_changed_configuration_is_noticed_and_may_be_meant(tmp_path: Path, make_model: Make) -> None:
    vitrail.save(make_model(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"norm_eps": 1e-06', '"norm_eps": 1e-05'))
    with pytest.raises(UserError, match=r"config\.json is damaged or was changed"):
        vitrail.load(tmp_path)
    values = json.loads(path.read_text())
    del values["vitrail"]["sha256"]["config.json"]
    path.write_text(json.dumps(values))
    assert vitrail.load(tmp_path).config.norm_eps == 1e-5


@pytest.mark.parametrize("word", ["vitrail", "sha256", "config.json", "model.safetensors"])
def test_a_flipped_bit_in_the_name_of_what_would_notice_it_is_noticed(
    word: str, tmp_path: Path, make_model: Make
) -> None:
    vitrail.save(make_model(), tmp_path)
    path = tmp_path / "config.json"
    whole = path.read_bytes()
    start = whole.index(f'"{word}": '.encode()) + 1
    for offset in range(start, start + len(word)):
        for bit in range(8):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ (1 << bit)]) + whole[offset + 1 :])
            with pytest.raises(UserError, match=r"config\.json"):
                vitrail.load(tmp_path)


def test_a_configuration_may_be_spaced_otherwise(tmp_path: Path, make_model: Make) -> None:
    vitrail.save(make_model(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=None))
    assert vitrail.load(tmp_path).labels == tuple("abcde")


def test_what_transformers_saved_from_ours_has_tensors_of_its_own(tmp_path: Path, make_model: Make) -> None:
    """It copies keys that it does not know into its configuration, with the digests of other files."""
    vitrail.convert(make_model(image_size=(32, 32)), "transformers", tmp_path / "theirs")
    vitrail.save(make_model(), tmp_path / "ours")
    path = tmp_path / "theirs" / "config.json"
    ours = json.loads((tmp_path / "ours" / "config.json").read_text())["vitrail"]
    values = {**json.loads(path.read_text()), "vitrail": ours, "transformers_version": "5.0.0"}
    path.write_text(json.dumps(values))
    assert vitrail.load(tmp_path / "theirs").config.image_size == (32, 32)


def _rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    """Change the tensors, and the hash with them, so that only the match can notice."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights)
    values = json.loads(config.read_text())
    values["vitrail"]["sha256"] = {"model.safetensors": sha256(weights)}
    config.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.1.mlp.fc1.weight"), r"1 missing \(blocks\.1\.mlp\.fc1\.weight\)"),
        (lambda t: t.update({f"odd.{i}": torch.ones(1) for i in range(6)}), r"6 left over \(odd\.0, .*, \.\.\.\)"),
        (lambda t: t.update({"head.bias": torch.ones(9)}), r"1 of another shape \(head\.bias 9 instead of 5\)"),
    ],
)
def test_weights_that_do_not_fit_are_listed(tmp_path: Path, make_model: Make, change: Callable, message: str) -> None:
    vitrail.save(make_model(), tmp_path)
    _rewrite(tmp_path, change)
    with pytest.raises(UserError, match=message):
        vitrail.load(tmp_path)


def test_half_precision_weights_open_in_single_precision(tmp_path: Path, make_model: Make) -> None:
    vitrail.save(make_model(), tmp_path)
    _rewrite(tmp_path, lambda t: t.update({name: tensor.half() for name, tensor in t.items()}))
    assert {p.dtype for p in vitrail.load(tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('["vit"]', "holds no JSON object"),
        ('{"model_type": "resnet"}', "model_type 'resnet'"),
        ('{"vitrail": {"format": 99}}', "format 99"),
        ('{"vitrail": {"format": 1, "config": {"widht": 3}}}', "did you mean width"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, values: str, message: str) -> None:
    (tmp_path / "config.json").write_text(values)
    with pytest.raises(UserError, match=message):
        load_folder(tmp_path)


def test_pickled_weights_open_where_there_are_no_others(tmp_path: Path, make_model: Make) -> None:
    model = make_model()
    vitrail.save(model, tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    torch.testing.assert_close(vitrail.load(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_labels_that_do_not_fit_the_head_are_refused(tmp_path: Path, make_model: Make) -> None:
    model = make_model()
    model.labels = ("a", "b")
    vitrail.save(model, tmp_path)
    with pytest.raises(UserError, match="names 2 labels for 5 classes"):
        vitrail.load(tmp_path)


def test_saving_again_replaces_the_model_and_keeps_the_persons_own_files(tmp_path: Path, make_model: Make) -> None:
    folder = tmp_path / "m"
    vitrail.save(make_model(), folder)
    (folder / "notes.txt").write_text("mine")
    vitrail.save(make_model(depth=1), folder)
    assert vitrail.load(folder).config.depth == 1
    assert (folder / "notes.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_failed_save_leaves_the_old_model_and_nothing_else(tmp_path: Path, make_model: Make) -> None:
    folder = tmp_path / "m"
    vitrail.save(make_model(), folder)
    broken = make_model(depth=1)
    broken.preprocess = object()  # fails after the weights have been written
    with pytest.raises(AttributeError):
        vitrail.save(broken, folder)
    assert vitrail.load(folder).config.depth == 2
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_is_something_else_is_not_replaced(tmp_path: Path, make_model: Make) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match="is not a model folder"):
        vitrail.save(make_model(), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "..."


def test_the_card_says_what_the_model_is_and_where_it_opens(tmp_path: Path, make_model: Make) -> None:
    vitrail.save(make_model(), tmp_path / "first" / "model", metrics={"top-1": 0.98765, "images": 400})
    card = (tmp_path / "first" / "model" / "README.md").read_text()
    for text in (
        "# first\n",
        "`a`, `b`",
        "32 x 48",
        "0.4, 0.5, 0.6",
        "| top-1 | 0.9877 |",
        "local-dir:",
        "license: yours",
    ):
        assert text in card
    vitrail.save(make_model(stem="conv"), tmp_path / "conv")
    card = (tmp_path / "conv" / "README.md").read_text()
    assert "timm does not open this folder (its conv stem)" in card
    assert "local-dir" not in card
    assert "architecture" not in json.loads((tmp_path / "conv" / "config.json").read_text())


@pytest.mark.parametrize("kind", POSITION_SITES)
def test_the_card_names_the_place_of_positions_where_it_is_not_the_usual(make_model: Make, kind: str) -> None:
    usual = architecture(make_model(position=kind).config)
    for site in POSITION_SITES[kind]:
        words = architecture(make_model(position=kind, position_site=site).config)
        if site == POSITION_SITES[kind][0]:
            assert words == usual
        else:
            assert {"layers": "positions in each block", "shared": " shared by the blocks"}[site] in words


def test_a_configuration_is_read_without_the_weights(tmp_path: Path, make_model: Make) -> None:
    model = make_model()
    vitrail.save(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    found = read(tmp_path)
    assert (found.config, found.labels, found.preprocess) == (model.config, model.labels, model.preprocess)
