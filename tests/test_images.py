"""Contact sheets and grids of sample images."""

import numpy as np
import pytest

from progdistill.images import decode_contact_sheet, encode_contact_sheet, grid, readable_scale, titled_rows


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


@pytest.mark.parametrize("channels", [1, 3])
def test_every_title_has_its_own_rows(channels: int) -> None:
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(channels, axis=3) * np.ones(
        (1, 20, 20, 1), np.uint8
    )
    picture = titled_rows(images, ["b", "a", "b", "b", "a"], most_columns=2)
    line, cell = 18, 22
    # b: two rows of two, the last place blank; a: one row.
    assert picture.shape == (2 * line + 3 * cell + 4, 2 * cell + 2, channels)
    tops = [line + 2, line + 2 + cell, 2 * line + 4 + 2 * cell + 2]
    found = [[int(picture[top, 2 + cell * column, 0]) for column in range(2)] for top in tops]
    assert found == [[0, 2], [3, 255], [1, 4]]
    for top in (0, line + 2 * cell + 2):
        written = picture[top : top + line]
        assert written.min() == 0 and written.max() == 255


def test_small_images_are_enlarged_to_a_readable_size() -> None:
    assert [readable_scale(size) for size in (8, 32, 64, 128)] == [6, 2, 1, 1]
