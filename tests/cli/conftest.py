"""What the tests of commands share: a console that keeps nothing of an earlier test, such as its width."""

from collections.abc import Iterator

import pytest

from vitrail.cli.console import console


@pytest.fixture(autouse=True)
def _own_console() -> Iterator[None]:
    console.cache_clear()
    yield
    console.cache_clear()
