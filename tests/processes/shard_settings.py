"""The test project on shards: SHARD_DATABASES are their names by alias, SHARD_MAP is the map."""

import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

OF_ALL = DATABASES["default"]
SHARDS = json.loads(os.environ["SHARD_DATABASES"])
# No router sends anything there: whatever is not routed fails.
DATABASES["default"] = OF_ALL | {"NAME": os.environ["SERVED_DATABASE"]}
DATABASES |= {alias: OF_ALL | {"NAME": name} for alias, name in SHARDS.items()}
IDEMPOTENCY_SHARDS = json.loads(os.environ["SHARD_MAP"])
DATABASE_ROUTERS = ["idempotency.shards.router.ShardRouter"]
