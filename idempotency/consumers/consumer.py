from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Literal, get_args
from uuid import UUID

from idempotency import conf
from idempotency.callables import refuse_coroutines
from idempotency.consumers.guards import NO_ANSWER, AgainGuard, InboxGuard, OnceGuard
from idempotency.exceptions import InvalidKey
from idempotency.functions import GuardedDecorator, GuardedFunction, KeyedGuard, work_database
from idempotency.keys import INBOX, Scope, ScopedKey, valid_id
from idempotency.models.messages import MAX_NAME_LENGTH
from idempotency.records import RecordGuard
from idempotency.responses import StoredResponse

BusinessId = str | int | UUID
DeliveryKind = Literal["transactional", "at_most_once", "at_least_once"]
KINDS = get_args(DeliveryKind)
_registered: dict[str, Consumer] = {}


def idempotent_consumer(
    name: str,
    *,
    key: str | Callable[..., BusinessId],
    delivery: DeliveryKind,
    reconcile: Callable[..., bool | None] | None = None,
    not_done: type[Exception] | tuple[type[Exception], ...] = (),
    lease: timedelta | None = None,
    retention: timedelta | None = None,
    using: str | Callable[..., str] | None = None,
    shard_key: Callable[..., Scope] | None = None,
    keep_result: bool = False,
) -> GuardedDecorator:
    """Make what a function, sync or async, does about a message happen as often as ``delivery`` says.

    ``name``: stable; messages are known under it and their business id, for ``retention``
    (IDEMPOTENCY_INBOX_RETENTION). ``key``: a function of the same arguments that returns the business id, as
    ``lambda message: message.headers["event_id"]`` does, or the name of the argument that is it; never the
    broker's delivery id, since a producer that sends again gets another one. ``using``: alias of the work's
    database; on shards, ``shard_key``: a function of the same arguments that says by what it is found.

    - ``"transactional"``: everything in that database, ``outbox.send()`` too, commits with the inbox's
      record, once. Calls outside may be repeated.
    - ``"at_most_once"``: the claim commits before the function runs. What ends without an answer, in an
      exception or a crash, is unknown: it is not run again, until ``reconcile`` of the same arguments says
      that it was done (True), was not and never will be (False), or an operator decides. ``not_done``:
      exceptions after which it is known that nothing was done.
    - ``"at_least_once"``: the claim commits before, and what ends without an answer is run again:
      ``downstream_key()`` (idempotency.steps) is the same each time.

    The last two hold the message for a ``lease`` (IDEMPOTENCY_LEASE), renewed while the function runs.

    A call for what was done before returns None; with ``keep_result``, what the first call returned, which
    must then be JSON. The call raises OperationInProgress (come back after ``retry_after`` seconds),
    StoreUnavailable, OutcomeUnknown, InvalidKey, and what the function raises. Acknowledge the message when
    it returns, and only then.
    """
    options = {"reconcile": reconcile, "not_done": not_done, "lease": lease, "retention": retention}
    if fault := consumer_fault(name, delivery, options):
        raise TypeError(f"@idempotent_consumer: {fault}")
    if reconcile is not None:
        refuse_coroutines(reconcile, "reconcile")

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        consumer = Consumer(
            function,
            key,
            name=name,
            delivery=delivery,
            reconcile=reconcile,
            not_done=not_done if isinstance(not_done, tuple) else (not_done,),
            lease=lease,
            retention=retention,
            using=using,
            shard_key=shard_key,
            keep_result=keep_result,
        )
        register(consumer)
        return consumer.call

    return decorator


class Consumer(GuardedFunction):
    """What ``@idempotent_consumer`` made of a function; ``call`` is what its name stands for from then on."""

    def __init__(
        self,
        function: Callable[..., Any],
        key: str | Callable[..., BusinessId],
        *,
        name: str,
        delivery: DeliveryKind,
        reconcile: Callable[..., bool | None] | None = None,
        not_done: tuple[type[Exception], ...] = (),
        lease: timedelta | None = None,
        retention: timedelta | None = None,
        using: str | Callable[..., str] | None = None,
        shard_key: Callable[..., Scope] | None = None,
        keep_result: bool = False,
    ) -> None:
        super().__init__(function, key, "@idempotent_consumer")
        self.name, self.delivery = name, delivery
        self.reconcile, self.not_done, self.lease = reconcile, not_done, lease
        self.retention, self.using, self.keep_result = retention, using, keep_result
        self.shard_key = shard_key
        self.call = self.wrapper()

    def guard(self, *args: Any, **kwargs: Any) -> RecordGuard:
        key, using = self.scoped_key(*args, **kwargs), self.database(*args, **kwargs)
        retention = conf.inbox_retention() if self.retention is None else self.retention
        if self.delivery == "transactional":
            return InboxGuard(key, using=using, retention=retention, answers=self.keep_result)
        if self.delivery == "at_least_once":
            return AgainGuard(key, using=using, retention=retention, lease=self.lease)
        return OnceGuard(
            key,
            using=using,
            retention=retention,
            lease=self.lease,
            ask=partial(self.reconcile, *args, **kwargs) if self.reconcile else None,
            not_done=self.not_done,
        )

    def scoped_key(self, *args: Any, **kwargs: Any) -> ScopedKey:
        """Raises InvalidKey where the message has no business id."""
        try:
            key = self.key_of(args, kwargs)
        except Exception as error:
            raise InvalidKey(
                f"The message has no business id for {self.name} ({type(error).__name__}: {error})."
            ) from error
        return ScopedKey(INBOX, self.name, valid_id(key, f"business id for {self.name}"))

    def database(self, *args: Any, **kwargs: Any) -> str:
        return work_database(self.using, self.shard_key, args, kwargs)

    def complete(self, guard: KeyedGuard, result: Any) -> None:
        assert isinstance(guard, RecordGuard)
        if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(
                f"The consumer {self.name!r} returned a {type(result).__name__}, which nobody runs: "
                "what is in it would be taken for done."
            )
        guard.complete(StoredResponse.from_result(result) if self.keep_result else NO_ANSWER)


def registered(name: str) -> Consumer | None:
    return _registered.get(name)


def registered_names() -> list[str]:
    return sorted(_registered)


def register(consumer: Consumer) -> None:
    other = _registered.get(consumer.name)
    if other and place(other) != place(consumer):
        raise TypeError(
            f"There are two consumers {consumer.name!r}, {place(other)} and {place(consumer)}: each would "
            "take the other's messages for handled."
        )
    _registered[consumer.name] = consumer


def place(consumer: Consumer) -> str:
    # A partial, or an instance with __call__(), has no name of its own.
    function: Any = getattr(consumer.function, "func", consumer.function)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def consumer_fault(name: object, delivery: object, options: dict[str, Any]) -> str | None:
    """What is wrong with these options, and what to do."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
        return f"a stable name comes first, of 1 to {MAX_NAME_LENGTH} characters, not {name!r}."
    if delivery not in KINDS:
        return f"delivery is {delivery!r}, which is unknown: use {', '.join(map(repr, KINDS))}."
    if delivery != "at_most_once" and (options["reconcile"] or options["not_done"]):
        return "reconcile and not_done are of delivery 'at_most_once': set it, or leave them out."
    kinds = options["not_done"] if isinstance(options["not_done"], tuple) else (options["not_done"],)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        return f"not_done is {options['not_done']!r}: give an exception's class, or a tuple of them."
    retention = options["retention"]
    if retention is not None and not (isinstance(retention, timedelta) and timedelta(0) < retention):
        return f"retention is {retention!r}: give a datetime.timedelta above 0."
    lease = options["lease"]
    if lease is not None and delivery == "transactional":
        return "a transactional consumer has no lease: leave it out."
    if lease is not None and not (isinstance(lease, timedelta) and timedelta(seconds=1) <= lease):
        return f"lease is {lease!r}: give a datetime.timedelta of at least a second."
    return None
