"""Orders of the example shop that are paid, and what is told to whom: the message that is stored with the
payment, and the SMS that a gateway sends."""

from __future__ import annotations

from functools import partial

import pytest

from tests.conftest import ONCE, available, beside_postgresql
from tests.processes.message_shop import QUEUE, opened_with_messages

pytestmark = pytest.mark.crash
ORDERS = 12
LATE = 4.0
"""Seconds, in which a machine that waits for the gateway's answer is killed."""
ROLLED_BACK = """
from django.db import transaction
customer, product = Customer.objects.get(user__username="alice"), Product.objects.first()
counts = []
with transaction.atomic():
    for count in range(2):
        counts += [Order.objects.count(), OutboxMessage.objects.count()]
        customer.check_out(product, 1)
    transaction.set_rollback(True)
print(json.dumps([*counts, Order.objects.count(), OutboxMessage.objects.count()]))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """On RabbitMQ, beside one database; files are enough beside the others."""
    if ONCE:
        available("rabbitmq")
    with opened_with_messages(tmp_path_factory.mktemp("shop"), on_rabbitmq=ONCE) as shop:
        yield shop


@pytest.fixture
def machines(shop):
    shop.machines.start()
    shop.machines.wait_until_started()
    return shop.machines


def test_with_its_last_cent_an_order_stores_one_message(shop):
    order = shop.order()
    shop.pay(order, 5_000)
    assert shop.events(order) == []
    shop.pay(order, 2_500)
    reference = order["reference"]
    told = {"order": reference, "phone": "+1 555 0100", "amount_cents": 7_500}
    assert shop.events(order) == [[f"order-paid-{reference}", reference, told]]


def test_a_payment_that_is_retried_stores_no_other_message(shop):
    order = shop.order()
    pay = partial(shop.request, "alice", "/api/payments/", {"order": order["id"], "amount_cents": 7_500})
    assert [pay("retried").status for _ in range(2)] == [201, 201]
    assert len(shop.events(order)) == 1


def test_an_order_that_is_paid_by_card_stores_one_message_too(shop):
    order = shop.order()
    pay = partial(shop.request, "alice", "/api/card-payments/", {"order": order["id"]})
    assert [pay("by-card").status for _ in range(2)] == [201, 201]
    assert len(shop.events(order)) == 1


def test_what_a_service_reports_is_not_told_again(shop):
    order = shop.order()
    assert shop.report(order, "paid")[0] == 200
    assert shop.events(order) == []


def test_the_message_is_rolled_back_with_the_payment(shop):
    orders, messages, *later = shop.run(ROLLED_BACK)
    assert later == [orders + 1, messages + 1, orders, messages]


def test_an_sms_is_sent_once_however_often_its_message_comes(shop, machines):
    order = shop.order()
    shop.pay_all(order)
    shop.wait_until_noted("completed", order)
    shop.publish_twice(order)
    shop.wait_until_noted("replayed", order)
    assert (shop.gateway.asked(order["reference"]), shop.sent(order)) == (1, [1])


def test_an_sms_whose_answer_is_lost_is_asked_for_again_and_sent_once(shop, machines):
    order = shop.order()
    shop.gateway.lose_answers(order["reference"])
    shop.pay_all(order)
    shop.wait_until_noted("completed", order)
    assert (shop.gateway.asked(order["reference"]), shop.sent(order)) == (2, [1])


@beside_postgresql
def test_what_a_killed_machine_had_in_hand_others_send_and_nothing_twice(shop):
    shop.machines.close()
    held, *others = orders = [shop.order(quantity=1) for _ in range(ORDERS)]
    for order in orders:
        shop.pay_all(order)
    copies, (before, _) = shop.publish_twice(*orders), shop.counted_in_the_inbox()
    settled = shop.machines.noted(("completed", "replayed"))
    shop.gateway.answer_late(held["reference"], LATE)
    shop.machines.spawn(*shop.machines.consume)
    shop.wait_until_asked(held)
    shop.machines.close()
    for _ in range(2):
        shop.machines.spawn(*shop.machines.consume)
    shop.wait_until_settled(settled + copies)
    shop.machines.stop()
    assert shop.sent(*orders) == [1] * ORDERS
    assert [shop.gateway.asked(order["reference"]) for order in orders] == [2] + [1] * len(others)
    assert shop.counted_in_the_inbox() == [before + ORDERS, 0]
    assert shop.queues.left(QUEUE) == 0
