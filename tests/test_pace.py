import pytest

from idempotency.pace import Pace

TARGET = 0.05


class Time:
    """A clock that only sleep, and whoever sets it, moves on."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time():
    return Time()


def pace(time, limit=None, **options):
    return Pace(limit, clock=time, sleep=time.sleep, **options)


def test_the_first_batch_is_neither_large_nor_above_the_limit(time):
    assert pace(time).size == 1000
    assert pace(time, 30).size == 30


def test_a_batch_that_took_too_long_is_followed_by_a_smaller_one(time):
    batches = pace(time)
    batches.adapt(1000, TARGET * 1.25)
    assert batches.size == 800


def test_one_slow_batch_halves_the_size_at_most(time):
    batches = pace(time)
    batches.adapt(1000, 60)
    assert batches.size == 500


def test_a_quick_batch_is_followed_by_one_twice_as_large_at_most(time):
    batches = pace(time)
    batches.adapt(1000, 0)
    assert batches.size == 2000


def test_a_batch_that_was_not_full_makes_no_larger_one(time):
    batches = pace(time)
    batches.adapt(999, 0)
    assert batches.size == 1000


@pytest.mark.parametrize(("limit", "largest"), [(None, 10_000), (3000, 3000), (1, 1)])
def test_however_quick_no_batch_is_above_the_limit(time, limit, largest):
    batches = pace(time, limit)
    for _ in range(20):
        batches.adapt(batches.size, 0)
    assert batches.size == largest


@pytest.mark.parametrize(("limit", "smallest"), [(None, 100), (3000, 100), (30, 30)])
def test_however_slow_a_batch_does_not_shrink_to_nothing(time, limit, smallest):
    batches = pace(time, limit)
    for _ in range(20):
        batches.adapt(batches.size, 60)
    assert batches.size == smallest


def test_half_of_the_time_is_worked(time):
    batches = pace(time)
    time.now += 1
    batches.rest()
    assert time.slept == [1]


def test_a_rest_counts_the_work_since_the_last_one_alone(time):
    batches = pace(time, share=0.5)
    time.now += 1
    batches.rest()
    time.now += 2
    batches.rest()
    assert time.slept == [1, 2]


def test_nothing_is_rested_for_longer_than_five_seconds(time):
    batches = pace(time)
    time.now += 60
    batches.rest()
    assert time.slept == [5]


@pytest.mark.parametrize(("left", "slept"), [(0.5, [0.5]), (0, []), (-1, [])])
def test_a_rest_ends_with_the_time_that_is_left(time, left, slept):
    batches = pace(time)
    time.now += 1
    batches.rest(left)
    assert time.slept == slept


def test_a_clock_that_goes_back_is_no_reason_to_rest(time):
    batches = pace(time)
    time.now -= 1
    batches.rest()
    assert time.slept == []
