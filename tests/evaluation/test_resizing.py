"""Batched resizing against clean-fid's own, image by image."""

import numpy as np
import pytest
import torch

from progdistill.features.inception import resize_bicubic


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (64, 48), (400, 320)])
def test_it_equals_clean_fids_resizer(height: int, width: int) -> None:
    from cleanfid.resize import build_resizer

    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    expected = np.stack([build_resizer("clean")(image) for image in images]).transpose(0, 3, 1, 2)
    resized = resize_bicubic(torch.from_numpy(images).permute(0, 3, 1, 2).float(), 299)
    np.testing.assert_allclose(resized.numpy(), expected, atol=2e-3)


def test_gray_levels_stay_within_those_of_an_image() -> None:
    edge = torch.tensor([0.0, 255.0]).repeat(1, 1, 8, 4)
    resized = resize_bicubic(edge, 40)
    assert float(resized.min()) >= 0 and float(resized.max()) <= 255
