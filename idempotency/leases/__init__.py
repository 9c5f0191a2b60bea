"""A record that is claimed for a time: for work that leaves the database."""

from idempotency.leases.guard import LeaseGuard
from idempotency.leases.lease import Lease

__all__ = ["Lease", "LeaseGuard"]
