"""The test project as publishers in processes of their own have it."""

import os

from tests.processes.settings import *  # noqa: F403
from tests.services import rabbitmq

IDEMPOTENCY_BROKERS = {"default": {"URL": os.environ.get("PUBLISHED_TO", rabbitmq.url)}}
