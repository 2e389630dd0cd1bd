"""A name given by a person means the folder that they think of."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

import vitrail
from vitrail.errors import UserError
from vitrail.model import ViT
from vitrail.weights import find, load

Make = Callable[..., ViT]


@pytest.fixture
def run(tmp_path: Path, make_model: Make) -> Path:
    """A run folder with a model in it."""
    vitrail.save(make_model(), tmp_path / "runs" / "first" / "model")
    return tmp_path / "runs" / "first"


def test_a_run_a_folder_and_a_file_mean_the_same_model(run: Path) -> None:
    folder = run / "model"
    assert find(run) == find(folder) == find(folder / "config.json") == folder
    assert find(folder / "model.safetensors") == folder / "model.safetensors"
    assert load(folder / "model.safetensors").config == load(str(run)).config


def test_weights_of_another_name_open_beside_their_configuration(run: Path) -> None:
    (run / "model" / "model.safetensors").rename(run / "model" / "averaged.safetensors")
    assert load(run / "model" / "averaged.safetensors").labels == tuple("abcde")


def test_the_nearest_name_is_suggested(run: Path) -> None:
    with pytest.raises(UserError, match=r"no model at .*frist.*did you mean .*runs/first\?"):
        find(run.parent / "frist")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere either"):
        find(run / "nowhere" / "x")


@pytest.mark.parametrize(
    ("name", "message"), [("B/16", "B/16 is a variant, which has no weights"), ("nonsense", "no model at nonsense")]
)
def test_a_variant_has_no_weights(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(name)


def test_what_is_there_and_is_no_model_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a model folder"):
        find(tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(UserError, match="a run that has no model yet"):
        find(tmp_path)
    (tmp_path / "weights.txt").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"weights\.txt does not open here: weights are files that end in .*\.safetensors"
    ):
        find(tmp_path / "weights.txt")


@pytest.mark.parametrize("name", ["lone.safetensors", "lone.pth", "lone.pt", "lone.bin", "lone.ckpt", "lone.npz"])
def test_a_file_of_weights_is_a_model_though_nothing_lies_beside_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert find(tmp_path / name) == tmp_path / name
    with pytest.raises(UserError, match=name) as caught:  # found, and then seen to be damaged
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


SAFETENSORS = ["model*.safetensors", "model.safetensors.index.json"]
PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


@pytest.fixture
def asked(run: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, list[str]]]:
    """What the Hub is asked for: repository, revision, files; it has the folder of ``run``."""
    calls = []

    def snapshot(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repository, revision, allow_patterns))
        return str(run / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return calls


def test_a_hub_id_is_fetched_with_its_revision_and_no_pickles(run: Path, asked: list) -> None:
    assert find("hf:owner/name") == find("hf:owner/name@v2") == run / "model"
    assert [call[:2] for call in asked] == [("owner/name", None), ("owner/name", "v2")]
    for _, _, files in asked:
        assert {"config.json", "preprocessor_config.json", *SAFETENSORS} <= set(files)
        assert not set(PICKLES) & set(files)


def test_pickled_weights_are_fetched_where_the_hub_has_no_others(run: Path, asked: list) -> None:
    (run / "model" / "model.safetensors").rename(run / "model" / "pytorch_model.bin")
    assert find("hf:owner/name") == run / "model"
    assert [files[-2:] for _, _, files in asked] == [SAFETENSORS, PICKLES]


def test_timms_names_mean_its_repositories_on_the_hub(run: Path, asked: list) -> None:
    assert find("timm:vit_tiny_patch16_224.augreg_in21k") == find("timm:vit_tiny.in1k@main") == run / "model"
    assert [(repository, revision) for repository, revision, _ in asked] == [
        ("timm/vit_tiny_patch16_224.augreg_in21k", None),
        ("timm/vit_tiny.in1k", "main"),
    ]


def test_a_name_of_timm_without_its_tag_is_told_what_it_lacks() -> None:
    with pytest.raises(UserError, match=r"NAME\.TAG, such as timm:vit_base_patch16_224\.augreg_in21k"):
        find("timm:vit_base_patch16_224")


def cached(hub: Path, repository: str, files: list[Path]) -> None:
    """Put files into the Hub's cache as it lies on disk: refs/main names a commit, snapshots/COMMIT links to blobs."""
    folder, commit = hub / f"models--{repository.replace('/', '--')}", "0123456789" * 4
    for name in ("refs", "blobs", f"snapshots/{commit}"):
        (folder / name).mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    for number, file in enumerate(files):
        blob = folder / "blobs" / f"{number:040x}"
        blob.write_bytes(file.read_bytes())
        (folder / "snapshots" / commit / file.name).symlink_to(Path("..", "..", "blobs", blob.name))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache, an empty folder so far, without a network."""
    snapshot = huggingface_hub.snapshot_download

    def download(*args: object, **kwargs: object) -> str:
        return snapshot(*args, cache_dir=tmp_path / "hub", local_files_only=True, **kwargs)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("name", "repository"), [("hf:owner/name", "owner/name"), ("timm:vit_mini.in1k", "timm/vit_mini.in1k")]
)
def test_a_repository_in_the_local_cache_opens_offline(run: Path, offline: Path, name: str, repository: str) -> None:
    cached(offline, repository, sorted((run / "model").iterdir()))
    assert load(name).labels == tuple("abcde")
    with pytest.raises(UserError, match="hf:owner/other is not in the local cache"):
        load("hf:owner/other")


def test_pickled_weights_in_the_local_cache_open_offline(run: Path, tmp_path: Path, offline: Path) -> None:
    model = load(run)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    cached(offline, "owner/name", [run / "model" / "config.json", tmp_path / "pytorch_model.bin"])
    found = load("hf:owner/name")
    assert all((found.state_dict()[name] == tensor).all() for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("offline"), "the Hub cannot be reached"),
        (ConnectionError("no route"), "cannot be fetched: no route"),
    ],
)
def test_a_failing_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def snapshot(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match=message) as caught:
        find("hf:owner/name")
    assert "\n" not in str(caught.value)


def test_a_repository_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RepositoryNotFoundError("404", response=MagicMock())  # its class differs between the hub's versions

    def snapshot(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match="no such public repository"):
        find("hf:owner/name")


def test_a_malformed_hub_id_is_said_without_asking_the_network() -> None:
    with pytest.raises(UserError, match="is not a hub id"):
        find("hf:a/b/c")
