"""Orders of the example shop that are paid by card, at a provider that loses answers and under a server that
is killed. What was charged, and what is paid, has to agree in the end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import httpx
import pytest

from shop_example.demo.provider import Provider
from tests.processes.card_shop import LEASE_SECONDS, CardShop
from tests.processes.gates import STUCK
from tests.processes.shops import database, opened

pytestmark = pytest.mark.crash
MORE_THAN_IT_TRIES = 3
DECLINED = 401
"""So many tea pots cost more than a card is good for."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder, provider = tmp_path_factory.mktemp("shop"), Provider("--faults")
    CardShop.provider = provider
    # In transactions of Django's, of which card payments have to keep out; the demo is without.
    settings = {
        "SHOP_PROVIDER_URL": provider.url,
        "SHOP_LEASE_SECONDS": str(LEASE_SECONDS),
        "SHOP_ATOMIC_REQUESTS": "1",
    }
    try:
        with database(folder) as named, opened(folder, CardShop, **settings, **named) as shop:
            yield shop
    finally:
        provider.close()


def test_an_order_is_paid_once_and_the_answer_replayed(shop):
    balance, order = shop.balance, shop.order()
    first, again = (shop.pay_by_card(order, "once") for _ in range(2))
    assert first == again
    assert (first[0], first[1]["amount_cents"], first[1]["status"]) == (201, 7_500, "paid")
    assert (shop.charged(order), shop.status(order), shop.balance) == (7_500, "paid", balance)


def test_an_order_that_is_paid_takes_no_other_payment(shop):
    order, _ = shop.paid_by_card()
    assert shop.pay_by_card(order)[0] == 409
    assert shop.pay(order, 1)[0] == 409
    assert shop.charged(order) == 7_500


def test_of_several_payments_at_once_for_one_order_one_is_made(shop):
    order = shop.order()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: shop.pay_by_card(order)[0], range(4)))
    assert sorted(answers) == [201, 409, 409, 409]
    assert shop.charged(order) == shop.paid(order) == 7_500


def test_those_who_send_the_same_at_once_have_the_same_answer_in_the_end(shop):
    order = shop.order()
    with ThreadPoolExecutor(4) as pool:
        pay = partial(shop.pay_by_card, order, "together", until_answered=True)
        answers = list(pool.map(lambda _: pay(), range(4)))
    assert [status for status, _ in answers] == [201] * 4
    assert answers[1:] == answers[:-1]
    assert shop.charged(order) == 7_500


def test_a_declined_card_gives_the_order_up_and_not_the_customer(shop):
    order = shop.order(DECLINED)
    first, again = (shop.pay_by_card(order, "declined") for _ in range(2))
    assert first == again == (402, {"detail": "The card was declined."})
    assert (shop.charged(order), shop.status(order)) == (0, "created")
    assert shop.pay(order, DECLINED * 2_500)[0] == 201


def test_only_the_rest_is_charged_and_each_gets_back_its_part(shop):
    balance, order = shop.balance, shop.order()
    shop.pay(order, 2_500)
    payment = shop.pay_by_card(order)[1]
    assert (shop.charged(order), shop.status(order)) == (5_000, "paid")
    assert shop.refund(payment)[1]["status"] == "refunded"
    assert (shop.charged(order), shop.balance, shop.status(order)) == (0, balance, "refunded")


def test_a_refund_gives_back_stock_and_what_was_charged_once(shop):
    stock, balance = shop.stock, shop.balance
    order, payment = shop.paid_by_card()
    first, again = (shop.refund(payment, "refund") for _ in range(2))
    assert first == again
    assert (first[0], shop.refund(payment)[0]) == (201, 409)
    assert (shop.charged(order), shop.stock, shop.balance) == (0, stock, balance)


def test_an_order_that_is_refunded_by_a_message_gives_nothing_of_the_card_to_the_balance(shop):
    balance = shop.balance
    order, payment = shop.paid_by_card()
    shop.report(order, "refunded")
    assert (shop.charged(order), shop.balance) == (7_500, balance)
    assert shop.refund(payment)[0] == 201
    assert (shop.charged(order), shop.balance) == (0, balance)


@pytest.mark.parametrize("times", [1, MORE_THAN_IT_TRIES])
def test_the_providers_lost_answers_charge_and_refund_nobody_twice(shop, times):
    order = shop.order()
    shop.provider.lose_answers(order["reference"], times)
    status, payment = shop.pay_by_card(order, until_answered=True)
    assert (status, shop.charged(order), shop.paid(order)) == (201, 7_500, 7_500)
    shop.provider.lose_answers(order["reference"], times)
    assert shop.refund(payment, until_answered=True)[0] == 201
    assert shop.charged(order) == 0


def test_without_steps_a_lost_answer_moves_the_money_twice(shop):
    order = shop.order()
    shop.provider.lose_answers(order["reference"])
    status, _ = shop.ask("unguarded/card-payments", {"order": order["id"]}, until_answered=True)
    assert (status, shop.charged(order), shop.paid(order)) == (201, 15_000, 7_500)
    order, payment = shop.paid_by_card()
    shop.provider.lose_answers(order["reference"])
    status, _ = shop.ask("unguarded/card-refunds", {"payment": payment["id"]}, until_answered=True)
    assert (status, shop.charged(order), shop.status(order)) == (201, -7_500, "refunded")


def test_while_nobody_knows_whether_it_was_charged_an_order_is_neither_paid_otherwise_nor_given_up(shop):
    order = shop.order()
    shop.provider.lose_answers(order["reference"], MORE_THAN_IT_TRIES)
    assert shop.pay_by_card(order, "unknown")[0] == 503
    assert (shop.charged(order), shop.paid(order)) == (7_500, 0)
    assert shop.pay_by_card(order)[0] == shop.pay(order, 2_500)[0] == 409
    assert shop.report(order, "cancelled")[0] == 409
    assert shop.send("alice", f"/api/orders/{order['id']}/cancel/")[0] == 409
    assert shop.pay_by_card(order, "unknown")[0] == 201
    assert (shop.charged(order), shop.status(order)) == (7_500, "paid")


def test_an_order_that_is_shipped_while_its_refund_is_under_way_is_refunded_when_delivered(shop):
    stock = shop.stock
    order, payment = shop.paid_by_card()
    shop.provider.lose_answers(order["reference"], MORE_THAN_IT_TRIES)
    assert shop.refund(payment, "shipped")[0] == 503
    shop.report(order, "shipped")
    assert shop.refund(payment, "shipped")[0] == 201
    assert (shop.charged(order), shop.status(order)) == (0, "shipped")
    shop.report(order, "delivered")
    assert (shop.status(order), shop.stock) == ("refunded", stock - 3)


def test_after_a_kill_the_callers_retry_goes_on(shop):
    stock = shop.stock
    order, payment = shop.paid_by_card()
    refund = partial(shop.refund, payment, "killed")
    with shop.killed_midway(refund):
        assert shop.charged(order) == 0
    assert (shop.status(order), shop.stock) == ("paid", stock - 3)
    status, refunded = refund(until_answered=True)
    assert (status, refunded["status"], shop.status(order)) == (201, "refunded", "refunded")
    assert (shop.charged(order), shop.stock) == (0, stock)


def test_when_nobody_retries_the_completer_ends_it_and_the_caller_is_told_later(shop):
    order = shop.order()
    pay = partial(shop.pay_by_card, order, "abandoned")
    with shop.killed_midway(pay):
        assert "1 done" in shop.complete()
    assert (shop.charged(order), shop.paid(order), shop.status(order)) == (7_500, 7_500, "paid")
    first, again = pay(), pay()
    assert first == again
    assert (first[0], first[1]["status"]) == (201, "paid")


def test_the_books_balance_when_the_completer_has_been_there(shop):
    *unanswered, killed = orders = [shop.order(quantity) for quantity in range(1, 9)]
    for order in unanswered[:2]:
        shop.provider.lose_answers(order["reference"], MORE_THAN_IT_TRIES)
        assert shop.pay_by_card(order)[0] == 503

    def pay(order):
        with suppress(httpx.TransportError):
            shop.pay_by_card(order)

    with ThreadPoolExecutor(len(orders)) as pool:
        paying = [pool.submit(pay, order) for order in unanswered[2:]]
        with shop.killed_midway(partial(shop.pay_by_card, killed)):
            [one.result(STUCK) for one in paying]
            shop.complete()
    charged = [shop.charged(order) for order in orders]
    assert charged == [shop.paid(order) for order in orders]
    # The others may have been killed before anything was reserved.
    assert [charged[place] for place in (0, 1, -1)] == [2_500, 5_000, 20_000]
    for order, cents in zip(orders, charged, strict=True):
        assert (cents, shop.status(order)) in ((order["total_cents"], "paid"), (0, "created"))


def test_the_provider_tells_a_retry_by_its_key_and_obeys_nobody_who_wants_faults():
    provider = Provider()
    try:

        def charge(cents, key):
            payload = {"reference": "r", "cents": cents}
            return provider.client.post("/charges", json=payload, headers={"Idempotency-Key": key})

        first, again, other = charge(1, "a"), charge(1, "a"), charge(2, "a")
        assert first.json() == again.json()
        assert (first.status_code, other.status_code) == (201, 422)
        assert charge(1, "b").json() != first.json()
        assert provider.charged("r") == 2
        with pytest.raises(httpx.HTTPStatusError):
            provider.lose_answers("r")
    finally:
        provider.close()
