"""What the process has loaded that all machines are forked off."""

import django

django.setup()

# With all that a machine runs.
from shop_example.demo import on_machines  # noqa: E402, F401
from shop_example.management.commands import settle  # noqa: E402, F401
