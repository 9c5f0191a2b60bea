"""Consumers of messages that are delivered twice, and whose effects are not.

``@idempotent_consumer`` is around any callable, from any broker. ``manage.py consume`` runs a project's own
on kombu, ``idempotency.consumers.celery`` has a decorator for Celery's tasks.
"""

from idempotency.consumers.consumer import Consumer, DeliveryKind, idempotent_consumer, registered

__all__ = ["Consumer", "DeliveryKind", "idempotent_consumer", "registered"]
