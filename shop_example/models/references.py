import uuid


def new_reference() -> str:
    """An order's name among the services that have to do with it."""
    return f"order-{uuid.uuid4()}"
