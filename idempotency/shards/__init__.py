"""Several databases: which one an operation's record and business rows are in, and who may say so."""

from idempotency.shards.maps import ShardMap, shard_map
from idempotency.shards.routing import ShardAlias, Unroutable, shard_of
from idempotency.shards.stored import require_same_map

__all__ = ["ShardAlias", "ShardMap", "Unroutable", "require_same_map", "shard_map", "shard_of"]
