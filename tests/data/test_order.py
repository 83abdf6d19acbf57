"""Shuffling of training images: uniform within a window, and of shards over windows."""

import numpy as np
import pytest

from progdistill.data.order import WINDOW_SHARDS, TrainingOrder

ROWS = [50] * 99 + [17]
IMAGES = sum(ROWS)


def epoch(order: TrainingOrder, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Image numbers (in stored order) of one epoch."""
    positions = order.positions(number * IMAGES, IMAGES)
    return positions.shards * 50 + positions.rows


@pytest.mark.parametrize("number", [0, 1, 7, 1000])
def test_an_epoch_of_many_windows_is_a_permutation(number: int) -> None:
    assert np.array_equal(np.sort(epoch(TrainingOrder(ROWS, 0), number)), np.arange(IMAGES))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch(TrainingOrder(ROWS, seed), number) for seed in (0, 1) for number in (0, 1)]
    for index, one in enumerate(orders):
        for other in orders[index + 1 :]:
            # Two random permutations agree in about one place.
            assert (one == other).sum() < 15


def test_any_range_is_the_same_part_of_the_whole_order() -> None:
    whole = np.concatenate([epoch(TrainingOrder(ROWS, 5), number) for number in range(3)])
    order = TrainingOrder(ROWS, 5)
    for start in (3 * IMAGES - 40, 0, IMAGES - 7, 1599, 1600, 2 * IMAGES - 100):
        positions = order.positions(start, 40)
        assert np.array_equal(positions.shards * 50 + positions.rows, whole[start : start + 40])


def test_a_window_reads_thirty_two_shards_and_announces_the_next() -> None:
    order, window = TrainingOrder(ROWS, 0), WINDOW_SHARDS * 50
    first = set(order.positions(0, window - 33).shards.tolist())
    assert len(first) == WINDOW_SHARDS
    following = order.shards_after(0)
    assert not first & set(following)
    seen = set(order.positions(window, window - 33).shards.tolist())
    assert seen <= set(following)


def test_inside_a_window_neighbors_in_storage_are_no_neighbors_in_training() -> None:
    order = epoch(TrainingOrder(ROWS, 0), 0)[: WINDOW_SHARDS * 50]
    same_shard = (order[1:] // 50 == order[:-1] // 50).mean()
    # Chance is 49/1599 = 0.031, with a standard deviation of 0.0043 over 1,599 neighbors.
    assert same_shard == pytest.approx(49 / 1599, abs=5 * 0.0043)
    following = (order[1:] - order[:-1] == 1).sum()
    assert following <= 8  # About one is expected.


def test_every_image_comes_at_every_time_alike() -> None:
    """Over epochs, positions are uniform: mean ½, variance 1/12 of the epoch, for every stored image."""
    order, epochs = TrainingOrder(ROWS, 9), 64
    positions = np.empty((epochs, IMAGES))
    for number in range(epochs):
        positions[number, epoch(order, number)] = np.arange(IMAGES) / IMAGES
    # Means over 64 epochs scatter by 0.036; the largest of 4,967 lies below 5.5 of that.
    assert np.abs(positions.mean(axis=0) - 0.5).max() < 5.5 * 0.0361
    assert positions.var(axis=0).mean() == pytest.approx(1 / 12, rel=0.03)
