"""Places choose as a Go map's iteration would, and repeat for the same seed."""

from collections import Counter

from cni.allocator.places import Dice, Places


def places_of(count: int) -> Places[int]:
    """Return `count` items at the first places, all ready."""
    places: Places[int] = Places()
    for item in range(count):
        while places.full:
            for moved in places.spread():
                places.put(moved, places.free_place())
        places.put(item, places.free_place())
    for place, found in enumerate(places.at):
        if found is not None:
            places.ready |= 1 << place
    return places


def test_of_two_entries_the_first_is_met_seven_times_in_eight() -> None:
    """A start among eight slots makes the first of two far likelier (Go: mapiterinit)."""
    places, dice = places_of(2), Dice(1)
    met = Counter(places.at[places.shuffled(dice)] for _ in range(8000))
    assert 6850 <= met[0] <= 7150


def test_of_eight_entries_each_is_met_alike() -> None:
    """A full bucket has no gaps to favour anybody."""
    places, dice = places_of(8), Dice(2)
    met = Counter(places.at[places.shuffled(dice)] for _ in range(8000))
    assert set(met) == set(range(8))
    assert all(850 <= times <= 1150 for times in met.values())


def test_the_ring_begins_where_the_choice_falls() -> None:
    """With all ready, the first of the ring is the one that a choice with the same dice takes."""
    places = places_of(11)
    for seed in range(200):
        ring = places.in_ring(Dice(seed))
        assert sorted(ring) == list(range(11))
        assert ring[0] == places.at[places.shuffled(Dice(seed))] or len(ring) > 8


def test_only_ready_places_are_chosen() -> None:
    """Whatever the dice say, a place without a bit is passed over."""
    places, dice = places_of(12), Dice(3)
    places.ready = 1 << 5
    assert {places.shuffled(dice) for _ in range(100)} == {5}
    assert places.lowest() == 5


def test_gaps_are_filled_first_and_bits_go_with_their_items() -> None:
    """Removing an item clears its bit, and the next item takes its place."""
    places = places_of(4)
    places.remove(1)
    assert places.ready == 0b1101
    assert len(places) == 3
    assert places.free_place() == 1
    assert places.free_from(0) == 1
    assert places.free_from(2) == 4


def test_dice_repeat() -> None:
    """The same seed gives the same stream, another seed another one."""

    def rolls(seed: int) -> list[int]:
        dice = Dice(seed)
        return [dice.roll() for _ in range(20)]

    assert rolls(5) == rolls(5)
    assert rolls(5) != rolls(6)
    assert all(0 <= roll < 2**32 for roll in rolls(7))
