"""Random transition graphs, orderings and deliveries: what is true of every one of them."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from idempotency.exceptions import FingerprintMismatch, NotApplied, TransitionRejected
from idempotency.models import ParkedEvent
from idempotency.status import ByRank, BySequence, Park, Reject
from idempotency.status.mixins import graph_of
from tests.project.models import NumberedParcel, Parcel
from tests.test_properties import REPEATABLE

pytestmark = pytest.mark.django_db
STATUSES = ["a", "b", "c", "d", "e"]
status = st.sampled_from(STATUSES)
graphs = st.dictionaries(status, st.lists(status, max_size=4, unique=True), min_size=1)
deliveries = st.lists(
    st.tuples(status, st.none() | st.integers(0, 6), st.none() | st.integers(0, 6)), max_size=12
)
orderings = st.sampled_from([Reject(), Park(), BySequence("version"), ByRank(*STATUSES)])


@contextmanager
def declared(model, graph, ordering):
    """The model with this declaration, and its own again afterwards."""
    before = model.__dict__["status_transitions"], model.status_ordering
    model.status_transitions, model.status_ordering = (
        {**graph, **{s: graph.get(s, ()) for s in STATUSES}},
        ordering,
    )
    graph_of.cache_clear()
    try:
        with transaction.atomic():
            yield
            transaction.set_rollback(True)
    finally:
        model.status_transitions, model.status_ordering = before
        graph_of.cache_clear()


def told(change):
    """What became of a change, whichever way it was said."""
    try:
        return str(change())
    except NotApplied as refusal:
        return str(refusal.outcome)
    except (TransitionRejected, FingerprintMismatch) as refusal:
        return refusal.code


def log_of(parcel):
    return list(parcel.status_log().values_list("from_status", "to_status", "event_id"))


def check_one(parcel, event, before, status_before):
    """Deliver, and hold what was said against what is there."""
    to, event_id, sequence = event
    outcome = told(lambda: parcel.transition_to(to, event_id=event_id, sequence=sequence))
    after = log_of(parcel)
    added = after[len(before) :]
    assert after[: len(before)] == before
    assert (outcome == "applied") == bool(added)
    assert added or parcel.current_status == status_before
    assert not added or added[0] == (status_before, to, "" if event_id is None else str(event_id))
    seen = {known for *_, known in before}
    assert str(event_id) not in seen or outcome in ("duplicate", "fingerprint-mismatch")
    return after


@given(graphs, orderings, status, deliveries)
@profile(max_examples=150, **REPEATABLE)
def test_the_log_is_an_unbroken_path_through_the_graph_with_each_event_once(graph, ordering, first, events):
    with declared(NumberedParcel, graph, ordering):
        parcel = NumberedParcel.objects.create(reference="a", status=first)
        log = []
        for event in events:
            log = check_one(parcel, event, log, parcel.status)
        path = [first, *(to for _, to, _ in log)]
        assert [(source, to) for source, to, _ in log] == list(pairwise(path))
        assert all(to in graph.get(source, ()) for source, to, _ in log)
        named = [event_id for *_, event_id in log if event_id]
        assert len(named) == len(set(named))
        assert NumberedParcel.objects.get(pk=parcel.pk).status == parcel.status == path[-1]


@given(graphs, status, deliveries)
@profile(max_examples=100, **REPEATABLE)
def test_no_event_stays_parked_that_the_status_allows(graph, first, events):
    with declared(NumberedParcel, graph, Park()):
        parcel = NumberedParcel.objects.create(reference="a", status=first)
        for to, event_id, _ in events:
            outcome = told(lambda to=to, event_id=event_id: parcel.transition_to(to, event_id=event_id))
            waiting = ParkedEvent.objects.about(parcel)
            assert not any(each.to_status in graph.get(parcel.status, ()) for each in waiting)
            assert outcome != "parked" or waiting.filter(event_id=str(event_id)).count() == 1


@given(graphs, st.sampled_from([Reject(), ByRank(*STATUSES)]), status, deliveries)
@profile(max_examples=100, **REPEATABLE)
def test_one_statement_and_a_guard_answer_the_same(graph, ordering, first, events):
    with declared(Parcel, graph, ordering):
        one, other = (Parcel.objects.create(reference=name, status=first) for name in "ab")
        for to, event_id, _ in events:
            at_once = told(lambda to=to, event_id=event_id: one.transition_to(to, event_id=event_id))
            guarded = told(lambda to=to, event_id=event_id: entered(other.transition(to, event_id=event_id)))
            assert at_once == guarded
        assert log_of(one) == log_of(other)
        assert one.status == other.status


def entered(guard):
    with guard:
        return "applied"
