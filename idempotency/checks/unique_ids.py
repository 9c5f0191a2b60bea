"""Where unique ids are kept."""

from __future__ import annotations

from idempotency.checks.mediums import Mechanism
from idempotency.unique_ids.base import BaseUniqueIdStore
from idempotency.unique_ids.redis import RedisUniqueIdStore

UNIQUE_IDS = Mechanism(
    BaseUniqueIdStore.SETTING,
    BaseUniqueIdStore.at,
    RedisUniqueIdStore,
    wrong_setting="E020",
    wrong_medium="E021",
    evicted="ids that were handled may be forgotten, and are then handled again",
)
