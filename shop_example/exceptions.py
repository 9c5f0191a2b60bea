"""What the shop refuses. Each Refused is an answer that a retry of the same request would get again."""

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
    default_detail = "This order waits for no payment: it is paid, or being paid, or was given up."
    default_code = "not-payable"


class BeingPaid(Refused):
    default_detail = "This order is being paid by card: it can be given up when that has ended."
    default_code = "being-paid"


class NotRefundable(Refused):
    default_detail = "There is nothing to give back, or the order is on its way to the customer."
    default_code = "not-refundable"


class CardDeclined(Refused):
    status_code = 402
    default_detail = "The card was declined."
    default_code = "card-declined"


class ProviderUnavailable(APIException):
    """Whether the money was moved is not known."""

    status_code = 503
    default_detail = "The payment provider cannot be reached: retry with the same key."
    default_code = "provider-unavailable"
    #: Seconds, for the Retry-After header.
    wait = 1
