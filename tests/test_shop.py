"""The example shop's own life, over HTTP: it has settings and a database of its own."""

import pytest
from django.db import connection

from tests.processes.shops import opened

pytestmark = pytest.mark.skipif(
    connection.vendor != "sqlite", reason="the shop has an SQLite database of its own"
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


def test_an_order_is_paid_with_its_last_cent(shop):
    order, balance = shop.order(), shop.balance
    assert (shop.pay(order, 5_000)[0], shop.status(order)) == (201, "created")
    assert (shop.pay(order, 2_500)[0], shop.status(order)) == (201, "paid")
    assert shop.pay(order, 1)[0] == 409
    assert shop.balance == balance - 7_500


def test_a_checkout_answers_with_a_paid_order(shop):
    product = shop.product["id"]
    assert shop.send("alice", "/api/unguarded/checkouts/", product=product, quantity=1)[1]["status"] == "paid"


def test_nothing_is_sold_that_is_not_there(shop):
    stock = shop.stock
    status, refusal = shop.send("alice", "/api/orders/", product=shop.product["id"], quantity=stock + 1)
    assert (status, refusal["detail"]) == (409, "There is not enough in stock.")
    assert shop.stock == stock


def test_a_cancelled_order_gives_back_stock_and_money_once_however_often_it_is_cancelled(shop):
    stock, balance, order = shop.stock, shop.balance, shop.order()
    shop.pay(order, 2_500)
    first, again, another = (shop.report(order, "cancelled", event) for event in ("a", "a", "b"))
    assert first == again == another
    assert (first[0], first[1]["from"], first[1]["event"]) == (200, "created", "a")
    assert (shop.stock, shop.balance) == (stock, balance)
    assert shop.pay(order, 2_500)[0] == 409


def test_a_delivered_order_gives_back_the_money_once_and_not_the_stock(shop):
    stock, balance, order = shop.stock, shop.balance, shop.order()
    shop.pay(order, 7_500)
    for status in ("shipped", "delivered", "refunded", "refunded"):
        assert shop.report(order, status)[0] == 200
    assert (shop.stock, shop.balance) == (stock - 3, balance)


def test_an_order_refunded_before_it_is_shipped_gives_back_both(shop):
    stock, balance, order = shop.stock, shop.balance, shop.order()
    shop.pay(order, 7_500)
    shop.report(order, "refunded")
    assert (shop.stock, shop.balance) == (stock, balance)


def test_a_payment_lets_in_what_was_reported_too_early(shop):
    order = shop.order()
    status, known = shop.report(order, "shipped")
    assert (status, known["status"]) == (202, "created")
    shop.pay(order, 7_500)
    assert shop.status(order) == "shipped"


def test_what_the_status_does_not_allow_is_refused(shop):
    order = shop.order()
    shop.report(order, "cancelled")
    status, refusal = shop.report(order, "shipped")
    assert (status, refusal["code"]) == (409, "transition-rejected")


def test_an_event_id_stands_for_one_message(shop):
    order = shop.order()
    shop.report(order, "paid", "event-1")
    status, refusal = shop.report(order, "shipped", "event-1")
    assert (status, refusal["code"]) == (422, "fingerprint-mismatch")


def test_a_message_about_no_order_finds_none(shop):
    assert shop.report({"reference": "order-of-nobody"}, "paid")[0] == 404


@pytest.mark.parametrize(
    "event", [{"event_id": "é"}, {"event_id": "e" * 256}, {"order": ""}, {"status": "lost"}], ids=str
)
def test_a_malformed_message_is_told_which_field_is_wrong(shop, event):
    message = {"event_id": "event-1", "order": "order-1", "status": "paid", **event}
    status, errors = shop.send("warehouse", "/api/order-events/", **message)
    assert (status, set(errors)) == (400, set(event))


def test_only_services_report_a_status(shop):
    assert shop.report(shop.order(), "paid", user="alice")[0] == 403


def test_a_customer_cancels_an_order_of_their_own_once(shop):
    stock, order = shop.stock, shop.order()
    cancel = f"/api/orders/{order['id']}/cancel/"
    first, again = (shop.send("alice", cancel) for _ in range(2))
    assert first == again
    assert (first[0], first[1]["status"]) == (200, "cancelled")
    assert shop.stock == stock
    refused = shop.send("alice", f"/api/orders/{order['id']}/refund/")[1]
    assert refused["code"] == "transition-rejected"
