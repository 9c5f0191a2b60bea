"""The shop's rows, and the operations that change them.

Each operation is one transaction, and the database's constraints let none oversell or overdraw however
many run at once. Rows are locked in one sequence, so that no two wait for each other: an order, its
customer, its product. That makes concurrent operations safe; it cannot tell a retry from a new one.
"""

from shop_example.models.customers import Customer, Payment
from shop_example.models.orders import Notice, Order
from shop_example.models.products import Product, StockDeduction
from shop_example.models.references import new_reference

__all__ = ["Customer", "Notice", "Order", "Payment", "Product", "StockDeduction", "new_reference"]
