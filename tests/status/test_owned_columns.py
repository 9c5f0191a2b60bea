"""save() of a copy that was read before leaves alone what only its mechanism writes."""

from __future__ import annotations

from copy import copy

import pytest
from django.core.serializers import deserialize, serialize

from idempotency.exceptions import WrittenElsewhere
from tests.project.models import Door, ExpressParcel, Locker, NumberedParcel, Parcel, Product

pytestmark = pytest.mark.django_db


def test_a_copy_that_was_read_before_does_not_set_the_status_back():
    old = Parcel.objects.create(reference="a")
    Parcel.objects.get().transition_to("packed")
    old.note = "fragile"
    old.save()
    kept = Parcel.objects.get()
    assert (kept.note, kept.status) == ("fragile", "packed")


def test_a_copy_that_was_read_before_does_not_set_an_amount_back():
    old = Product.objects.create(name="tea", stock=5)
    Product.objects.get().increment("stock", -3, operation_id="o1")
    old.name = "green tea"
    old.save()
    kept = Product.objects.get()
    assert (kept.name, kept.stock) == ("green tea", 2)


def test_a_sequence_number_is_left_alone_too():
    old = NumberedParcel.objects.create(reference="a")
    NumberedParcel.objects.get().transition_to("packed", sequence=5)
    old.save()
    assert NumberedParcel.objects.get().version == 5


@pytest.mark.parametrize("options", [{}, {"update_fields": ["status"]}, {"force_update": True}])
def test_a_status_that_was_assigned_is_not_saved_in_silence(options):
    parcel = Parcel.objects.create(reference="a")
    parcel.status = "packed"
    with pytest.raises(WrittenElsewhere, match=r"Parcel.status was set to 'packed'.*transition_to"):
        parcel.save(**options)
    assert Parcel.objects.get().status == "new"


def test_what_was_assigned_matters_only_where_it_would_be_saved():
    parcel = Parcel.objects.create(reference="a")
    parcel.status, parcel.note = "packed", "fragile"
    parcel.save(update_fields=["note"])
    assert Parcel.objects.get().note == "fragile"


def test_after_a_refresh_or_a_transition_the_instance_may_be_saved():
    parcel = Parcel.objects.create(reference="a")
    Parcel.objects.update(status="packed")
    parcel.refresh_from_db()
    parcel.save()
    parcel.transition_to("sent")
    parcel.save()
    assert Parcel.objects.get().status == "sent"


def test_a_new_row_has_the_status_it_is_made_with():
    Parcel(reference="a", status="sent").save()
    assert Parcel.objects.get().status == "sent"


def test_deferred_columns_are_neither_read_nor_written():
    Parcel.objects.create(reference="a")
    deferred = Parcel.objects.only("pk", "note").get()
    Parcel.objects.update(status="packed")
    deferred.note = "fragile"
    deferred.save()
    assert Parcel.objects.get().status == deferred.status == "packed"
    deferred.save()


def test_a_child_model_leaves_its_parents_status_alone():
    old = ExpressParcel.objects.create(reference="a")
    ExpressParcel.objects.get().transition_to("packed", event_id="e1")
    old.courier = "c"
    old.save()
    kept = ExpressParcel.objects.get()
    assert (kept.courier, kept.status) == ("c", "packed")


def test_a_row_that_has_nothing_but_its_status_can_be_saved():
    door = Door.objects.create()
    door.save(update_fields=["state"])
    door.save()
    assert Door.objects.get() == door


def test_save_with_an_explicit_primary_key_leaves_the_row_that_is_there_its_status():
    Locker.objects.create(name="A").transition_to("taken")
    Locker(name="A").save()
    assert Locker.objects.get().status == "taken"


def test_save_with_an_explicit_primary_key_leaves_the_row_that_is_there_its_amounts():
    product = Product.objects.create(name="tea", stock=5)
    Product(pk=product.pk, name="green tea").save()
    kept = Product.objects.get()
    assert (kept.name, kept.stock) == ("green tea", 5)


def test_a_copy_that_was_read_elsewhere_leaves_the_status_alone_too():
    old = Parcel.objects.create(reference="a")
    Parcel.objects.get().transition_to("packed")
    # As of a replica's.
    old._state.db = "replica"
    old.save(using="default")
    assert Parcel.objects.get().status == "packed"


def test_what_was_inserted_in_bulk_may_be_saved():
    (parcel,) = Parcel.objects.bulk_create([Parcel(reference="a", pk=1)])
    parcel.note = "fragile"
    parcel.save()
    assert Parcel.objects.get().note == "fragile"


def test_a_copy_of_an_instance_knows_for_itself():
    parcel = Parcel.objects.create(reference="a")
    other = copy(parcel)
    other.transition_to("packed")
    with pytest.raises(WrittenElsewhere):
        other.status = "lost"
        other.save()
    parcel.save()
    assert Parcel.objects.get().status == "packed"


def test_fixtures_bring_their_statuses():
    (fixture,) = deserialize("json", serialize("json", [Parcel.objects.create(reference="a")]))
    fixture.object.status = "packed"
    fixture.save()
    assert Parcel.objects.get().status == "packed"
