"""Contact sheets and grids of sample images."""

import numpy as np
import pytest

from progdistill.images import decode_contact_sheet, encode_contact_sheet, grid, readable_scale


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_gives_the_same_images_back(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    np.testing.assert_array_equal(decode_contact_sheet(encode_contact_sheet(images), 5), images)


def test_equal_images_encode_to_equal_bytes() -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    assert encode_contact_sheet(images) == encode_contact_sheet(images.copy())


def test_a_grid_places_every_image_where_it_belongs() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    picture = grid(images, columns=3, scale=2, gap=1)
    assert picture.shape == (2 * 3 + 1, 3 * 3 + 1, 1)
    assert [int(picture[1 + 3 * (i // 3), 1 + 3 * (i % 3), 0]) for i in range(6)] == [0, 1, 2, 3, 4, 5]
    assert int(picture[0, 0, 0]) == 255


def test_small_images_are_enlarged_to_a_readable_size() -> None:
    assert [readable_scale(size) for size in (8, 32, 64, 128)] == [6, 2, 1, 1]
