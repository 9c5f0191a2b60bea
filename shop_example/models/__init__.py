"""The shop's rows, and the operations that change them.

Each operation is one transaction, and the database's constraints let none oversell or overdraw however
many run at once. Rows are locked in one sequence, so that no two wait for each other: an order, its card
payment, its customer, its product. That makes concurrent operations safe; it cannot tell a retry from a
new one. There are two exceptions: shelves, which no transaction guards but a lock (see
``shop_example.picking``), and paying by card, which is several transactions (``shop_example.operations``).
"""

from shop_example.models.cards import CardPayment
from shop_example.models.customers import Customer, Payment
from shop_example.models.orders import Notice, Order
from shop_example.models.payouts import Payout
from shop_example.models.products import Product, StockDeduction
from shop_example.models.references import new_reference
from shop_example.models.shelves import Pick, Shelf

__all__ = [
    "CardPayment",
    "Customer",
    "Notice",
    "Order",
    "Payment",
    "Payout",
    "Pick",
    "Product",
    "Shelf",
    "StockDeduction",
    "new_reference",
]
