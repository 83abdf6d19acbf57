"""Decoding, cropping and resizing of single images."""

import io

import numpy as np
import pytest
from PIL import Image

from progdistill.data.preprocess import Crop, Preprocessing, Resize, decode_image
from progdistill.data.source import UnreadableImageError
from tests.data.published import encoded


def ramp(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An image whose red tells the column, green the row."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = np.arange(width)
    image[:, :, 1] = np.arange(height)[:, None]
    return image


@pytest.mark.parametrize(("height", "width"), [(10, 15), (15, 10), (9, 9), (10, 13), (13, 10)])
def test_the_center_square_is_cut_as_in_the_papers_code(height: int, width: int) -> None:
    side = min(height, width)
    image = decode_image(encoded(ramp(height, width)), Preprocessing(image_size=side))
    top, left = height // 2 - side // 2, width // 2 - side // 2
    assert np.array_equal(image, ramp(height, width)[top : top + side, left : left + side])


def test_area_resizing_is_the_mean_of_what_a_pixel_covers() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    means = noise.reshape(32, 3, 32, 3, 3).astype(np.float64).mean(axis=(1, 3))
    image = decode_image(encoded(noise), Preprocessing(image_size=32, resize=Resize.AREA))
    assert np.array_equal(image, np.rint(means).astype(np.uint8))


def test_coverage_weighs_each_pixel_by_how_much_of_it_is_covered() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    repeated = noise.repeat(4, axis=0).repeat(4, axis=1).astype(np.float64)  # a sixteenth of a pixel each
    means = repeated.reshape(4, 10, 4, 10, 3).mean(axis=(1, 3))
    image = decode_image(encoded(noise), Preprocessing(image_size=4, resize=Resize.AREA_COVERAGE))
    assert np.abs(image - means).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("resize", Resize)
def test_no_filter_reads_beyond_the_square(resize: Resize) -> None:
    framed = np.full((96, 160, 3), 255, np.uint8)
    framed[:, 32:128] = 0
    image = decode_image(encoded(framed), Preprocessing(image_size=24, resize=resize))
    assert image.max() == 0


@pytest.mark.parametrize("resize", Resize)
def test_no_filter_aliases(resize: Resize) -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    image = decode_image(encoded(stripes), Preprocessing(image_size=32, resize=resize))
    assert np.abs(image[:, 4:-4].astype(int) - 127).max() <= 3


def test_stretching_keeps_all_of_the_image() -> None:
    image = decode_image(encoded(ramp(8, 64)), Preprocessing(image_size=8, crop=Crop.STRETCH))
    assert image.shape == (8, 8, 3)
    assert (image[0, 0, 0] < 8) and (image[0, 7, 0] > 55)


def test_other_modes_become_rgb_or_gray() -> None:
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert np.array_equal(decode_image(encoded(gray), Preprocessing(image_size=None)), gray.repeat(3, axis=2))
    assert np.array_equal(decode_image(encoded(gray), Preprocessing(image_size=None, channels=1)), gray)
    file = io.BytesIO()
    Image.fromarray(ramp(8, 8)).convert("CMYK").save(file, format="TIFF")
    assert decode_image(file.getvalue(), Preprocessing(image_size=8)).shape == (8, 8, 3)


def test_a_camera_s_orientation_is_followed_only_when_asked() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6  # Orientation: turn by 90° clockwise to see it upright.
    Image.fromarray(ramp(8, 8)).save(file, format="PNG", exif=exif)
    lying = decode_image(file.getvalue(), Preprocessing(image_size=8))
    upright = decode_image(file.getvalue(), Preprocessing(image_size=8, upright=True))
    assert np.array_equal(lying, ramp(8, 8))
    assert np.array_equal(upright, np.rot90(ramp(8, 8), -1))


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", encoded(ramp(64, 64))[:100], encoded(ramp(64, 64), "JPEG")[:-99], b"\xff\xd8\xff\xe0"],
)
def test_what_cannot_be_decoded_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableImageError):
        decode_image(data, Preprocessing(image_size=8))


def test_sixteen_bits_become_eight_without_being_cut_off() -> None:
    values = np.array([[0, 128], [32896, 65535]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    image = decode_image(file.getvalue(), Preprocessing(image_size=None, channels=1))
    assert image[:, :, 0].tolist() == [[0, 0], [128, 255]]


def test_transparent_pixels_become_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    image = decode_image(encoded(pixels), Preprocessing(image_size=None))
    assert image[0, 0].tolist() == [10, 20, 30]
    assert (image.reshape(-1, 3)[1:] == 255).all()


def test_floating_point_pixels_are_unreadable_since_their_range_is_unknown() -> None:
    with pytest.raises(UnreadableImageError, match="floating-point"):
        decode_image(encoded(np.zeros((4, 4), np.float32), "TIFF"), Preprocessing(image_size=None))
