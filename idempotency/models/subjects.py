"""Rows about an object of any model: which object, under which id, and never changed again."""

from __future__ import annotations

from typing import Any, NoReturn, Self

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE, digest, key_digest


class SubjectQuerySet(models.QuerySet[Any]):
    def about(self, instance: models.Model) -> Self:
        """Rows about one object. Served by the unique index."""
        types = ContentType.objects.db_manager(self.db)
        wanted = models.Q()
        for owner in (type(instance), *instance._meta.all_parents):
            digest = object_digest(primary_key(instance, owner))
            wanted |= models.Q(content_type=types.get_for_model(owner).pk, object_digest=digest)
        return self.filter(wanted)


class SubjectModel(models.Model):
    """Comparisons use the digests, which no collation can blur; the texts are for reading."""

    # Without a constraint in the database: each insert would lock the one row of the object's model.
    content_type = models.ForeignKey(
        ContentType,
        models.DO_NOTHING,
        verbose_name=_("model"),
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    object_id = models.CharField(_("object"), max_length=255)
    object_digest = DigestField(max_length=DIGEST_SIZE)

    class Meta:
        abstract = True

    @property
    def subject(self) -> models.Model | None:
        """The object itself, from this row's database; None when it is gone."""
        if (model := self.subject_model) is None:
            return None
        try:
            return model._base_manager.using(self._state.db).filter(pk=self.object_id).first()
        except (ValueError, ValidationError):  # primary keys were of another type then
            return None

    @property
    def subject_model(self) -> type[models.Model] | None:
        types = ContentType.objects.db_manager(self._state.db)
        try:
            return types.get_for_id(self.content_type_id).model_class()
        except ContentType.DoesNotExist:
            return None


def owner_of(model: type[models.Model], field: str) -> type[models.Model]:
    """The model whose table has the field's column: of a child, it may be a parent."""
    owner = column_of(model, field).model._meta.concrete_model
    assert owner is not None  # only abstract models have none, and they have no rows
    return owner


def primary_key(instance: models.Model, owner: type[models.Model]) -> Any:
    """Of the object's row in the owner's table, as the column has it: what was assigned may be spelled
    otherwise."""
    return owner._meta.pk.to_python(getattr(instance, owner._meta.pk.attname))


def column_of(model: type[models.Model], name: str) -> models.Field[Any, Any]:
    """A field that has a column. Raises FieldDoesNotExist."""
    field = model._meta.get_field(name)
    if not isinstance(field, models.Field):
        raise FieldDoesNotExist(f"{model.__name__}.{name} has no column.")
    return field


def subject_columns(owner: type[models.Model], pk: Any, using: str) -> dict[str, Any]:
    """What says in a row which object it is about."""
    content_type = ContentType.objects.db_manager(using).get_for_model(owner)
    return {
        "content_type_id": content_type.pk,
        "object_id": str(pk)[:255],
        "object_digest": object_digest(pk),
    }


def object_digest(pk: Any) -> bytes:
    return digest(b"idem-object", (str(pk),))


def event_digest(event_id: str | None) -> bytes | None:
    return None if event_id is None else key_digest(event_id)


class AppendOnlyQuerySet(SubjectQuerySet):
    def update(self, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{self.model.__name__} is append-only: nothing that happened is changed.")

    def delete(self) -> NoReturn:
        raise TypeError(f"{self.model.__name__} is append-only: what was done could then be done again.")


class AppendOnlyModel(SubjectModel):
    """What was done could be done again if its row were lost, so rows are added and nothing else."""

    by = models.CharField(_("by"), max_length=255, blank=True)
    at = models.DateTimeField(_("at"))

    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is append-only, and written by the operation it tells of.")

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is append-only: what was done could then be done again.")
