"""What the shop refuses. Each is an answer that a retry of the same request would get again."""

from rest_framework.exceptions import APIException


class Refused(APIException):
    status_code = 409


class OutOfStock(Refused):
    default_detail = "There is not enough in stock."
    default_code = "out-of-stock"


class InsufficientBalance(Refused):
    default_detail = "The balance does not cover this payment."
    default_code = "insufficient-balance"


class Overpaid(Refused):
    default_detail = "The payments would exceed the order's total."
    default_code = "overpaid"


class NotPayable(Refused):
    default_detail = "This order waits for no payment: it is paid, or was given up."
    default_code = "not-payable"
