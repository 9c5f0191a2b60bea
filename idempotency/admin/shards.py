"""Pages about rows that several databases have, each under primary keys of its own.

Every address names the shard: a list's ``?shard=alias``, and an object's ``alias:pk``. Nothing is remembered
between two requests, so no page, decision or release is ever about the row of another shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from idempotency.exceptions import DecisionRefused, SlotFrozen, WrongShardMap
from idempotency.models import IdempotencyRecord
from idempotency.shards.claims import hold
from idempotency.shards.maps import shard_map
from idempotency.shards.routing import alias_at, all_databases
from idempotency.transactions import translated

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Any]
    BaseChangeList = ChangeList
else:
    Base, BaseChangeList = object, ChangeList

SHARD = "shard"


def address_of(row: Model) -> Any:
    """What names the row in addresses and in the log of admin actions: its primary key, without shards."""
    return row.pk if shard_map() is None else f"{row._state.db}:{row.pk}"


def addressed(row: Any) -> Any:
    """For templates and the log, which ask for ``pk``: the row with its address for one."""
    return row if shard_map() is None else Addressed(row)


class Addressed:
    def __init__(self, row: Model) -> None:
        self._row, self.pk = row, address_of(row)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._row, name)

    def __str__(self) -> str:
        return _("%(row)s on %(shard)s") % {"row": self._row, "shard": self._row._state.db}


def hold_slots(records: Iterable[IdempotencyRecord]) -> None:
    """Within the transaction that writes what an operator says of them, which nothing moves meanwhile.
    Raises DecisionRefused, and the database's refusals."""
    for record in records:
        try:
            with translated():
                hold(alias_at(record._state.db, record.slot))
        except SlotFrozen as error:
            why = _("The slot of %s is frozen, as its rows are being moved: look again when that is over.")
            raise DecisionRefused(why % record) from error
        except WrongShardMap as error:
            why = _("%(record)s is not to be changed here: %(difference)s.")
            raise DecisionRefused(why % {"record": record, "difference": error.difference}) from error


class ShardFilter(admin.SimpleListFilter):
    """Always one of them: the list is read from there."""

    title = gettext_lazy("shard")
    parameter_name = SHARD

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(alias, alias) for alias in all_databases(model_admin.model)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        __, *shards = super().choices(changelist)
        yield from shards


class ShardChangeList(BaseChangeList):
    def url_for_result(self, result: Model) -> str:
        if shard_map() is None:
            return super().url_for_result(result)
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return reverse(name, args=(quote(address_of(result)),), current_app=self.model_admin.admin_site.name)

    def get_query_string(self, new_params: Any = None, remove: Any = None) -> str:
        """Clearing all filters leaves one on the shard where one is."""
        return super().get_query_string(new_params, [name for name in remove or () if name != SHARD])

    def get_filters(self, request: HttpRequest) -> Any:
        *found, are_active = super().get_filters(request)
        if shard_map() is not None:
            are_active = bool(self.get_filters_params().keys() - {SHARD})
        return (*found, are_active)


class ShardsAdminMixin(Base):
    """For the admin of the package's own rows. ``get_queryset()`` must read from ``database(request)``."""

    def home(self) -> str:
        """Where the rows are, without shards."""
        return all_databases(self.model)[0]

    def database(self, request: HttpRequest) -> str:
        """That of the list."""
        if shard_map() is None:
            return self.home()
        databases, asked = all_databases(self.model), request.GET.get(SHARD)
        return asked if asked in databases else databases[0]

    def row_at(self, request: HttpRequest, address: str, from_field: str | None = None) -> Any:
        """The row that ``address_of()`` gives this address; None without one. Raises Http404 for a database
        that is no shard."""
        rows = self.get_queryset(request)
        if shard_map() is not None:
            alias, __, address = address.rpartition(":")
            if alias not in all_databases(self.model):
                raise Http404(f"There is no shard {alias!r}.")
            rows = rows.using(alias)
        field: Any = self.opts.get_field(from_field) if from_field else self.opts.pk
        try:
            return rows.filter(**{field.name: field.to_python(address)}).first()
        except (ValidationError, ValueError):
            return None

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        return self.row_at(request, object_id, from_field)

    def is_of_shards(self, lookup: str) -> bool:
        return lookup == SHARD and shard_map() is not None

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return self.is_of_shards(lookup) or super().lookup_allowed(lookup, value, request)

    def get_list_filter(self, request: HttpRequest) -> Any:
        filters = super().get_list_filter(request)
        return filters if shard_map() is None else (ShardFilter, *filters)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ShardChangeList

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        databases = all_databases(self.model)
        if shard_map() is not None and request.GET.get(SHARD) not in databases:
            if not self.has_view_or_change_permission(request):
                raise PermissionDenied
            if request.method == "POST":
                # What was selected was so on some shard, and the first one may be another by now.
                raise Http404("The address of the list names no shard.")
            query = request.GET.copy()
            query[SHARD] = databases[0]
            return redirect(f"{request.path}?{query.urlencode()}")
        return super().changelist_view(request, extra_context)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if shard_map() is not None and request.method == "POST":
            # Django would begin a transaction before, and ask the routers where, which cannot know.
            raise PermissionDenied
        return self._addressed(super().changeform_view(request, *args, **kwargs))

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        if shard_map() is None:
            return super().delete_view(request, object_id, extra_context)
        # Inside of the transaction that Django begins where the routers say: delete_model() has its own.
        return self._addressed(self._delete_view(request, object_id, extra_context))  # type: ignore[attr-defined]

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return self._addressed(super().history_view(request, *args, **kwargs))

    def _addressed(self, response: Any) -> Any:
        """Django's templates make links of ``original.pk`` and ``object.pk``."""
        if isinstance(response, TemplateResponse) and response.context_data and shard_map() is not None:
            for name in ("original", "object"):
                if isinstance(row := response.context_data.get(name), self.model):
                    response.context_data[name] = addressed(row)
                    if response.context_data.get("subtitle"):
                        response.context_data["subtitle"] = str(addressed(row))
        return response

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        if shard_map() is None:
            return super().get_deleted_objects(objs, request)
        # Nothing else goes with them, for which Django would look where the routers say.
        name, names = str(self.opts.verbose_name), self.opts.verbose_name_plural
        refused = {name for row in objs if not self.has_delete_permission(request, row)}
        return [f"{name}: {addressed(row)}" for row in objs], {names: len(objs)}, refused, []

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        rows: Any = [addressed(row) for row in queryset]
        return super().log_deletions(request, rows)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        if shard_map() is None:
            return super().delete_model(request, obj)
        with transaction.atomic(using=obj._state.db):
            obj.delete(using=obj._state.db)
