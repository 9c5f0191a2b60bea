"""Logs, parked events and the pages of objects in the admin; and the commands for a terminal."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.urls import path

from idempotency.admin import OwnedColumnsAdminMixin, StatusAdminMixin
from idempotency.database import DatabaseNow
from idempotency.models import ParkedEvent
from tests.project.models import Door, Parcel, ParkingParcel, Product

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]
site = admin.AdminSite("own")


class ParcelAdmin(StatusAdminMixin, admin.ModelAdmin):
    pass


class DoorAdmin(StatusAdminMixin, admin.ModelAdmin):
    fields = ["number", "state"]


class ProductAdmin(OwnedColumnsAdminMixin, admin.ModelAdmin):
    pass


site.register(Parcel, ParcelAdmin)
site.register(Door, DoorAdmin)
site.register(Product, ProductAdmin)
urlpatterns = [path("admin/", admin.site.urls), path("own/", site.urls)]


@pytest.fixture
def operator(client):
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def parcel():
    parcel = ParkingParcel.objects.create(reference="a")
    parcel.transition_to("packed", event_id="e1", by="nightly <b>")
    # With a sign that no random token on the page has.
    parcel.transition_to("delivered", event_id="e-3")
    return parcel


def page(client, path, **query):
    response = client.get(path, query)
    assert response.status_code == 200, response
    return response.content.decode()


def let_time_pass():
    ParkedEvent.objects.update(report_at=DatabaseNow() - timedelta(seconds=1))


LISTS = ["statustransition", "parkedevent", "ledgerentry"]


@pytest.mark.parametrize("model", LISTS)
def test_logs_can_be_looked_at_and_not_edited(operator, parcel, model):
    Product.objects.create(name="tea").increment("stock", 3, operation_id="o1")
    listed = page(operator, f"/admin/idempotency/{model}/")
    assert {"statustransition": "packed", "parkedevent": "delivered", "ledgerentry": "o1"}[model] in listed
    assert operator.get(f"/admin/idempotency/{model}/add/").status_code == 403
    row = admin.site._registry[next(m for m in admin.site._registry if m._meta.model_name == model)].model
    shown = page(operator, f"/admin/idempotency/{model}/{row.objects.get().pk}/change/")
    assert 'name="_save"' not in shown


def test_what_people_have_written_is_escaped(operator, parcel):
    listed = page(operator, "/admin/idempotency/statustransition/")
    assert "nightly &lt;b&gt;" in listed


def test_logs_are_searched_by_the_exact_object(operator, parcel):
    other = ParkingParcel.objects.create(reference="b")
    other.transition_to("packed", event_id="of-another")
    found = page(operator, "/admin/idempotency/statustransition/", q=str(parcel.pk))
    assert "e1" in found
    assert "of-another" not in found


def test_overdue_events_are_filtered_and_say_what_the_object_is(operator, parcel):
    path = "/admin/idempotency/parkedevent/"
    assert "e-3" not in page(operator, path, overdue="yes")
    assert "e-3" in page(operator, path, overdue="no")
    let_time_pass()
    listed = page(operator, path, overdue="yes")
    assert "e-3" in listed
    assert "packed" in listed


def test_a_parked_event_may_be_given_up_and_that_is_logged(operator, parcel):
    event = ParkedEvent.objects.get()
    path = f"/admin/idempotency/parkedevent/{event.pk}/delete/"
    assert operator.post(path, {"post": "yes"}).status_code == 302
    assert ParkedEvent.objects.count() == 0
    assert "e-3 to delivered" in LogEntry.objects.get().object_repr


def test_rows_of_objects_that_are_gone_are_shown_all_the_same(operator, parcel):
    ParkingParcel.objects.all().delete()
    assert "e-3" in page(operator, "/admin/idempotency/parkedevent/")
    assert "is gone: e-3 to delivered" in run("parked_events")


# Pages of a project's own models


def test_the_page_of_an_object_shows_what_it_may_become_and_what_it_was(operator):
    parcel = Parcel.objects.create(reference="a")
    parcel.transition_to("packed", event_id="e1", by="nightly <b>")
    shown = page(operator, f"/own/project/parcel/{parcel.pk}/change/")
    assert "<tr><td><b>packed</b></td><td>→ sent, lost</td></tr>" in shown
    assert "<td>new → packed</td><td>e1</td><td>nightly &lt;b&gt;</td>" in shown
    assert "stateDiagram-v2" in shown
    assert 'name="status"' not in shown
    assert 'name="reference"' in shown


def test_a_page_with_fields_of_its_own_shows_them_too(operator):
    door = Door.objects.create()
    shown = page(operator, f"/own/project/door/{door.pk}/change/")
    assert "stateDiagram-v2" in shown
    assert 'name="number"' in shown


def test_a_form_saves_what_is_not_owned(operator):
    parcel = Parcel.objects.create(reference="a")
    path = f"/own/project/parcel/{parcel.pk}/change/"
    assert operator.post(path, {"reference": "b", "note": "n"}).status_code == 302
    assert Parcel.objects.get().reference == "b"


def test_a_new_object_is_given_its_first_amounts_and_later_ones_are_shown(operator):
    assert 'name="stock"' in page(operator, "/own/project/product/add/")
    product = Product.objects.create(name="tea", stock=5)
    shown = page(operator, f"/own/project/product/{product.pk}/change/")
    assert 'name="stock"' not in shown
    assert 'name="name"' in shown


def test_an_owned_column_cannot_be_edited_in_a_list():
    class Editing(StatusAdminMixin, admin.ModelAdmin):
        list_display = ("reference", "status")
        list_editable = ("status",)

    with pytest.raises(ImproperlyConfigured, match="list_editable names status"):
        Editing(Parcel, site)


# Commands


def run(*arguments, **options):
    out = StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def test_a_diagram_is_mermaid():
    assert run("status_diagram", "project.ParkingParcel").splitlines() == [
        "stateDiagram-v2",
        "    [*] --> new",
        "    new --> packed",
        "    new --> lost",
        "    packed --> sent",
        "    packed --> lost",
        "    sent --> delivered",
        "    sent --> lost",
        "    lost --> [*]",
        "    delivered --> [*]",
    ]


def test_a_diagram_names_statuses_that_are_no_words():
    drawn = run("status_diagram", "project.Door")
    assert '    state "1" as status_0\n' in drawn
    assert "    [*] --> status_0\n" in drawn
    assert "    status_1 --> status_2\n" in drawn


@pytest.mark.parametrize("label", ["project.Order", "project.NoSuch", "nonsense"])
def test_a_model_without_transitions_has_no_diagram(label):
    with pytest.raises(CommandError, match=r"Models that have it: project.Parcel"):
        run("status_diagram", label)


def test_parked_events_are_listed(parcel):
    listed = run("parked_events")
    assert f"project.ParkingParcel {parcel.pk} is packed: e-3 to delivered" in listed
    assert "1 waiting, 0 overdue" in listed
    assert "e-3" not in run("parked_events", overdue=True)


def test_overdue_events_are_an_alarm(parcel):
    let_time_pass()
    out = StringIO()
    with pytest.raises(CommandError, match="look for it"):
        call_command("parked_events", stdout=out)
    assert out.getvalue().startswith("OVERDUE ")


def test_a_database_that_there_is_not_is_refused():
    with pytest.raises(CommandError, match="--database takes one of default"):
        run("parked_events", database="no such")
