"""A crash at any moment leaves the old folder or the new one."""

import contextlib
import stat
from pathlib import Path

import pytest

from vitrail.weights import replace


def _write(target: Path, text: str) -> None:
    with replace.folder(target) as staging:
        (staging / "file").write_text(text)


@pytest.fixture(params=["one step", "two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's exchange of names, and without it."""
    if request.param == "two steps":
        monkeypatch.setattr(replace, "_exchange", lambda a, b: False)


@pytest.mark.usefixtures("way")
def test_a_folder_is_created_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    for text in ("old", "new"):
        _write(target, text)
        assert (target / "file").read_text() == text
        assert [p.name for p in target.parent.iterdir()] == ["target"]


@pytest.mark.usefixtures("way")
def test_an_error_while_writing_changes_nothing(tmp_path: Path) -> None:
    _write(tmp_path / "target", "old")
    with contextlib.suppress(KeyboardInterrupt), replace.folder(tmp_path / "target") as staging:
        (staging / "file").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "target" / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_a_crash_between_the_two_renames_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    _write(target, "old")
    monkeypatch.setattr(replace, "_exchange", lambda a, b: False)
    rename = Path.rename

    def crash_at_the_second(self: Path, to: Path) -> Path:
        if to == target:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        _write(target, "new")
    monkeypatch.undo()
    assert not target.exists()
    replace.recover(target)
    assert (target / "file").read_text() == "old"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    with replace.file(target) as staging:
        staging.write_text("old")
        assert not target.exists()
    with contextlib.suppress(KeyboardInterrupt), replace.file(target) as staging:
        staging.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def test_a_link_is_followed_and_not_replaced(tmp_path: Path) -> None:
    _write(tmp_path / "target", "old")
    (tmp_path / "link").symlink_to("target")
    _write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target" / "file").read_text() == "new"


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    """Temporary files are private; what takes their place has the permissions that any new file has."""
    (tmp_path / "plain").write_text("")
    with replace.file(tmp_path / "file") as staging:
        staging.write_text("x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
