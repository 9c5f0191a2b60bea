from __future__ import annotations

from datetime import timedelta

import pytest

from idempotency.database import DatabaseNow
from tests.project.models import Order

pytestmark = pytest.mark.django_db


def test_a_deadline_is_over_at_its_own_moment():
    Order.objects.create(reference="asked")
    rows = Order.objects.annotate(deadline=DatabaseNow() + timedelta(0))
    assert rows.filter(deadline__lte=DatabaseNow()).exists()
    assert not rows.filter(deadline__gt=DatabaseNow()).exists()
