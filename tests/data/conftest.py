"""A small folder of photographs."""

from pathlib import Path

import pytest
from pictures import encode, smooth


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 JPEGs of 60x80 in four class folders."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(40):
        folder = root / "abcd"[number % 4]
        folder.mkdir(exist_ok=True)
        (folder / f"{number:02d}.jpg").write_bytes(encode(smooth(60, 80, seed=number), "JPEG", quality=90))
    return root
