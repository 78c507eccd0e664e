"""Training pictures that look like an earlier one: they are left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sscd_ops.descriptors import dct
from sscd_ops.descriptors.training.decoded import Pictures
from sscd_ops.errors import ConfigError
from sscd_ops.images.preprocess import PRESETS

_MOST_COMPARED = 200_000
_ROWS = 2_048


def check_comparable(count: int) -> None:
    """Refuse a number of pictures that ``look_alikes`` could not compare.

    Raises:
        ConfigError: there are too many to compare each with each.
    """
    if count > _MOST_COMPARED:
        raise ConfigError(
            f"more than {_MOST_COMPARED:,} pictures are too many to be compared with each other:"
            " remove copies with a run of sscd-ops, and give --drop-similar 0"
        )


def look_alikes(pictures: Pictures, least: float) -> list[int]:
    """Rows of pictures that look like an earlier one, also mirrored: to be left out.

    As negatives of each other, copies would teach that copies differ.

    Args:
        pictures: all.
        least: similarity of ``dct`` descriptors from which two are alike.

    Raises:
        ConfigError: there are too many pictures to compare each with each.
    """
    check_comparable(len(pictures))
    plain, mirrored = _dct(pictures, mirror=False), _dct(pictures, mirror=True)
    kept = np.zeros(len(pictures), bool)
    gone = []
    for start in range(0, len(pictures), _ROWS):
        rows = plain[start : start + _ROWS]
        alike = (rows @ plain.T >= least) | (rows @ mirrored.T >= least)
        for offset, row in enumerate(alike):
            here = start + offset
            if (row[:here] & kept[:here]).any():
                gone.append(here)
            else:
                kept[here] = True
    return gone


def _dct(pictures: Pictures, *, mirror: bool) -> NDArray[np.float32]:
    preset = PRESETS["grid-64-draft"]
    answer = []
    for start in range(0, len(pictures), _ROWS):
        rows = range(start, min(start + _ROWS, len(pictures)))
        images = [Image.fromarray(pictures[row]) for row in rows]
        if mirror:
            images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
        small = [image.resize(preset.size_of(*image.size), preset.filter) for image in images]
        answer.append(dct.describe(np.stack([np.asarray(image) for image in small])))
    return np.concatenate(answer)
