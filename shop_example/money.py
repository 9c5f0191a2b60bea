"""Money is kept in cents, and shown with two decimals."""


def money(cents: int) -> str:
    return f"{cents / 100:.2f}"
