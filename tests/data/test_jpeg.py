"""A JPEG's first rows alone: those of the whole, to the bit, and damage in them is still noticed."""

import io

import numpy as np
import pytest
from pictures import encode
from PIL import Image

from vitrail.data import decode as decoding
from vitrail.data.decode import ImageError, open_image
from vitrail.data.jpeg import shortened

KINDS = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "4:1:1": {"subsampling": "4:1:1"},
    "optimised": {"optimize": True, "quality": 40},
}


def noisy(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coarse random colours under fine noise, so that every row differs from its neighbours."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3), dtype=np.uint8))
    fine = rng.integers(-20, 20, (height, width, 3))
    return (np.asarray(coarse.resize((width, height))) + fine).clip(0, 255).astype(np.uint8)


@pytest.fixture
def shortened_only(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each decoding of first rows was sound."""
    sound: list[bool] = []
    own = decoding._decode_top

    def top(*args: object) -> bool:
        sound.append(own(*args))
        return sound[-1]

    monkeypatch.setattr(decoding, "_decode_top", top)
    return sound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_the_rows_asked_for_are_those_of_the_whole_image(
    kind: str, channels: int, reduction: int, shortened_only: list[bool]
) -> None:
    height, width = 203, 150
    pixels = noisy(height, width)
    data = encode(pixels if channels == 3 else pixels[:, :, :1], "JPEG", **KINDS[kind])
    least = (height // reduction, width // reduction)
    whole = open_image(data).array(channels, at_least=least)
    assert whole.shape[0] == -(-height // reduction)
    for rows in (1, 15, 16, 17, 31, 33, 64, 99, 100):
        top = open_image(data).array(channels, at_least=least, rows=rows)
        last = max(1, round(rows * whole.shape[0] / height))
        assert top.shape == whole.shape
        assert np.array_equal(top[:last], whole[:last])
    assert shortened_only == [True] * 9


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rows_are_counted_in_the_upright_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    data = encode(noisy(90, 120), "JPEG", exif=exif)
    whole = open_image(data).array()
    assert np.array_equal(open_image(data).array(rows=40)[:40], whole[:40])


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}])
def test_images_whose_first_rows_do_not_stand_alone_are_decoded_whole(options: dict[str, object]) -> None:
    data = encode(noisy(160, 120), "JPEG", **options)
    assert shortened(data, 20) is None
    assert np.array_equal(open_image(data).array(rows=20), open_image(data).array())


def test_nothing_is_shortened_that_would_save_nothing_or_is_no_jpeg() -> None:
    data = encode(noisy(160, 120), "JPEG")
    assert shortened(data, 20) is not None
    assert shortened(data, 150) is None
    assert shortened(data[:150], 20) is None
    for junk in (b"", b"\xff\xd8", b"\xff\xd8" + b"\xff" * 50, bytes(200), encode(noisy(160, 120))):
        assert shortened(junk, 20) is None


def test_of_a_damaged_file_the_whole_decides(shortened_only: list[bool]) -> None:
    data = encode(noisy(320, 240), "JPEG", quality=90)
    with pytest.raises(ImageError, match="damaged or incomplete"):
        open_image(data[: -len(data) // 10], "x.jpg").array(rows=40)
    start = data.index(b"\xff\xda") + 14
    damaged = data[: start + 200] + b"\xff\xd9" + data[start + 202 :]  # an end in the midst of the code
    assert np.array_equal(open_image(damaged).array(rows=200), open_image(damaged).array())
    assert shortened_only == [False, False]


def test_an_image_of_many_comments_is_shortened_behind_them() -> None:
    file = io.BytesIO()
    Image.fromarray(noisy(160, 120)).save(file, "JPEG", comment=b"\xff\xc0" * 500)
    short = shortened(file.getvalue(), 30)
    assert short is not None
    assert Image.open(io.BytesIO(short[0])).size == (120, short[1])
