"""A name given by a person means the folder that they think of."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import huggingface_hub
import pytest
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
    (tmp_path / "weights.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"\.safetensors files with config\.json"):
        find(tmp_path / "weights.pt")
    (tmp_path / "lone.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"lone\.safetensors has no config\.json beside it"):
        find(tmp_path / "lone.safetensors")


def test_a_hub_id_is_fetched_with_its_revision(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, sorted(allow_patterns)))
        return str(run / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert find("hf:owner/name") == find("hf:owner/name@v2") == run / "model"
    files = ["README.md", "config.json", "model.safetensors"]
    assert asked == [("owner/name", None, files), ("owner/name", "v2", files)]


def test_a_repository_in_the_local_cache_opens_offline(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's cache as it lies on disk: refs/main names a commit, snapshots/COMMIT holds the files."""
    repository, commit = tmp_path / "hub" / "models--owner--name", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (run / "model").rename(repository / "snapshots" / commit)
    snapshot = huggingface_hub.snapshot_download

    def offline(*args: object, **kwargs: object) -> str:
        return snapshot(*args, cache_dir=tmp_path / "hub", local_files_only=True, **kwargs)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    assert load("hf:owner/name").labels == tuple("abcde")
    with pytest.raises(UserError, match="hf:owner/other is not in the local cache"):
        load("hf:owner/other")


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
