"""The segments of a JPEG file, and the file of its first rows alone: no decoder is asked for less of an image otherwise.

Source: ITU-T T.81, annex B.
"""

_SOF = frozenset([0xC0, 0xC1])  # Huffman code, one row of blocks after the other; a progressive image has several scans
_OTHER_FRAMES = frozenset([0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)])
_SOS, _DRI = 0xDA, 0xDD
_BLOCK = 8


def shortened(data: bytes, rows: int, reduction: int = 1) -> tuple[bytes, int] | None:
    """The same JPEG as if it had fewer rows, at least ``rows``, and how many it has.

    A decoder stops after them. Every one of the first ``rows`` is as in the whole, to the bit: the colour of a row depends
    on the rows beside it, so there are a few more. What follows them in the code is left over, of which decoders warn.

    Args:
        data: the file.
        rows: of the unreduced image.
        reduction: by how much it will be reduced: 1, 2, 4 or 8.

    Returns:
        None where nothing would be saved, for progressive images, those whose planes are not interleaved, and those with
        restart markers, after which code that is left over would look like damage.
    """
    at = 2
    frame = None
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a filling byte
            at += 1
            continue
        if marker in _SOF:
            frame = at
        elif marker in _OTHER_FRAMES or (marker == _DRI and any(data[at + 4 : at + 6])):
            return None
        elif marker == _SOS:
            break
        at += 2 + length
    else:
        return None
    if frame is None or data[at + 4 : at + 5] != data[frame + 9 : frame + 10]:  # not all components are in this scan
        return None
    height = int.from_bytes(data[frame + 5 : frame + 7], "big")
    tallest = max((factors & 15 for factors in data[frame + 11 : frame + 11 + 3 * data[frame + 9] : 3]), default=1)
    # a reduced image may have one row more than its share, and a row of colour is mixed with the next one
    enough = rows + 2 * reduction * (1 + tallest)
    if enough > height - _BLOCK * tallest:
        return None
    return data[: frame + 5] + enough.to_bytes(2, "big") + data[frame + 7 :], enough
