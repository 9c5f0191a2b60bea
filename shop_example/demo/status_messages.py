"""Four messages about one order, the latest first: what it ends as, and what its customer is told."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

from shop_example import samples
from shop_example.demo import plays
from shop_example.demo.client import Answer, Caller
from shop_example.demo.plays import Play
from shop_example.demo.scenarios import Column, HTTPScenario, Outcome
from shop_example.demo.shop import Shop
from shop_example.models import Order

STATUS = Order.Status
TAKEN, KEPT, IGNORED = "taken", "kept", "ignored"
SENT = (STATUS.DELIVERED, STATUS.SHIPPED, STATUS.PAID, STATUS.CREATED)
# In the order in which it happened. That the order was created is no news by then.
TOLD = [STATUS.PAID, STATUS.SHIPPED, STATUS.DELIVERED]
# The one that those before it have waited for.
PAID = SENT.index(STATUS.PAID)
PLAYS = (
    Play("each once, in turn", plays.in_turn, True),
    Play("each twice, at once", partial(plays.at_once, times=2), True),
    Play("timeout, then retry", partial(plays.in_turn, trouble=plays.time_out_then_retry, at=PAID), True),
    Play("killed before commit", partial(plays.in_turn, trouble=plays.kill_before_commit, at=PAID), True),
    Play("killed after commit", partial(plays.in_turn, trouble=plays.kill_after_commit, at=PAID), True),
)


@dataclass(frozen=True, kw_only=True)
class StatusMessages(HTTPScenario):
    #: What the orders are for.
    product: int
    plays: tuple[Play, ...] = PLAYS

    counted = (Column("status", 11), Column("notices", 9))
    told = (Column("kept", 8), Column("ignored", 8))

    def begin(self, shop: Shop, play: Play) -> StatusTrial:
        reference = shop.new_order(self.product)
        return StatusTrial(
            tuple(self.caller(shop, reference, status) for status in SENT), shop.database, reference
        )

    def caller(self, shop: Shop, reference: str, status: str) -> Caller:
        payload = {"event_id": str(uuid.uuid4()), "order": reference, "status": status}
        return Caller(shop.server.port, shop.message(self.path(shop), payload, samples.WAREHOUSE))


class StatusTrial(NamedTuple):
    callers: tuple[Caller, ...]
    database: str
    reference: str

    def outcome(self) -> Outcome:
        order = Order.objects.using(self.database).get(reference=self.reference)
        notices = list(order.notices.order_by("pk").values_list("status", flat=True))
        is_right = order.status == STATUS.DELIVERED and notices == TOLD
        outcomes = [outcome for caller in self.callers for outcome in outcomes_of(caller)]
        return Outcome(
            sum(caller.sent for caller in self.callers),
            (order.status, str(len(notices))),
            (str(outcomes.count(KEPT)), str(outcomes.count(IGNORED))),
            1 if is_right else None,
            all(is_told_truly(caller) for caller in self.callers),
        )


def outcomes_of(caller: Caller) -> list[str]:
    """What the answers say of each copy of a message."""
    event = json.loads(caller.message.body)["event_id"]
    return [outcome_of(answer, event) for answer in caller.answers if answer.is_success]


def outcome_of(answer: Answer, event: str) -> str:
    if answer.status == HTTPStatus.ACCEPTED:
        return KEPT
    # Not by the status: an order that is created is so already when the first message says it.
    is_news = json.loads(answer.body).get("event") == event and not answer.is_replay
    return TAKEN if is_news else IGNORED


def is_told_truly(caller: Caller) -> bool:
    """Whether every copy of the message was taken, and no two of them are said to have changed the status."""
    taken = all(answer.is_success for answer in caller.answers)
    return taken and outcomes_of(caller).count(TAKEN) <= 1
