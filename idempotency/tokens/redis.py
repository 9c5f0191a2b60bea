from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from threading import Lock, Thread
from typing import Any, NamedTuple

from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured

from idempotency.exceptions import StoreUnavailable, TooManyTokens
from idempotency.redis import Script, prefix
from idempotency.tokens.answers import Answer
from idempotency.tokens.base import MILLISECOND, BaseTokenStore
from idempotency.tokens.texts import PresentedToken

logger = logging.getLogger("idempotency")

# A token's value is its binding (16 bytes), and once it is used the nonce of who did (16 more).
# Any script may run twice: redis-py repeats a command whose reply was lost.
CREATE = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('EXISTS', KEYS[2]) == 1 then
    return {1, now + redis.call('PTTL', KEYS[2])}
end
local issued = tonumber(redis.call('GET', KEYS[1]) or '0')
if issued + #KEYS - 1 > tonumber(ARGV[3]) then
    return {0, redis.call('PTTL', KEYS[1])}
end
redis.call('INCRBY', KEYS[1], #KEYS - 1)
if issued == 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
for number = 2, #KEYS do
    redis.call('SET', KEYS[number], ARGV[1], 'PX', ARGV[2])
end
return {1, now + ARGV[2]}
""")

TAKE = Script("""
local EXPIRED, FOREIGN, USED, WON = 0, 1, 2, 3
local value = redis.call('GET', KEYS[1])
if not value then
    return EXPIRED
end
if string.sub(value, 1, 16) ~= ARGV[1] then
    return FOREIGN
end
local nonce = string.sub(value, 17)
if nonce == '' then
    redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', redis.call('PTTL', KEYS[1]) + ARGV[3])
    return WON
end
if nonce == ARGV[2] and (ARGV[4] == '0' or redis.call('PTTL', KEYS[1]) > tonumber(ARGV[3])) then
    return WON
end
return USED
""")

GIVE_BACK = Script("""
local value = redis.call('GET', KEYS[1])
if not value or string.sub(value, 17) ~= ARGV[1] then
    return 0
end
local left = redis.call('PTTL', KEYS[1]) - ARGV[2]
if left > 0 then
    redis.call('SET', KEYS[1], string.sub(value, 1, 16), 'PX', left)
else
    redis.call('DEL', KEYS[1])
end
return 1
""")

ANSWERS = (Answer.EXPIRED, Answer.FOREIGN, Answer.USED, Answer.WON)


class Return(NamedTuple):
    location: str
    key: str
    nonce: bytes
    retention: int


# What could not be given back yet. It is lost with the process, and its tokens then stay spent.
_to_give_back: dict[Return, None] = {}
MOST_DUE = 10_000
_thread: Thread | None = None
_thread_lock = Lock()
PAUSE, LONGEST_PAUSE = 0.25, 1.0


def give_back_soon() -> None:
    """Have a thread of this process ask Redis until it is back: a caller who retries may well be served
    by another process, which would say that the token was used."""
    global _thread
    with _thread_lock:
        # After a fork it is there, and not alive.
        if _thread is None or not _thread.is_alive():
            _thread = Thread(target=give_back_until_done, name="idempotency-give-back", daemon=True)
            _thread.start()


def give_back_until_done() -> None:
    global _thread
    pause = PAUSE
    while True:
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
        for location in {due.location for due in list(_to_give_back)}:
            try:
                give_back_to(location)
            except StoreUnavailable:
                continue
            except Exception:
                # Such as a connection that somebody else closed. Nobody is there to see this thread end.
                logger.exception(
                    "cannot be given back yet, and is tried again: tokens in CACHES[%r]", location
                )
        with _thread_lock:
            if not _to_give_back:
                _thread = None
                break
    caches.close_all()


def give_back_to(location: str, key: str | None = None) -> None:
    """Whatever is due there, or only a key's. Raises StoreUnavailable as soon as one cannot be given back.

    What is due stays so until it is done: another thread that asks for the token meanwhile would be told
    that it was used. Doing it twice does no harm.
    """
    for due in list(_to_give_back):
        if due.location != location or key not in (None, due.key):
            continue
        try:
            GIVE_BACK.run(due.location, [due.key], [due.nonce, due.retention])
        except ImproperlyConfigured:  # the alias is not there any more
            logger.warning("cannot be given back, and stays spent: a token in CACHES[%r]", location)
        _to_give_back.pop(due, None)


class RedisTokenStore(BaseTokenStore):
    """Tokens in the Redis of a django-redis cache. LOCATION is its alias in CACHES, by default "default".

    A used token is remembered only as long as Redis remembers: give it ``maxmemory-policy noeviction``
    and an alias that nobody clears. A failover may forget the last second's.
    """

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.location: str = self.location or "default"

    def create(self, batch: Sequence[PresentedToken]) -> datetime:
        place, lifetime = batch[0].place, self.lifetime // MILLISECOND
        keys = [f"{prefix(self.location)}:issued:{{{place}}}", *map(self._key, batch)]
        created, milliseconds = CREATE.run(self.location, keys, [batch[0].binding, lifetime, self.limit])
        if not created:
            raise TooManyTokens(retry_after=-(-milliseconds // 1000))
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)

    def take(self, token: PresentedToken, nonce: bytes, *, comes_again: bool = False) -> Answer:
        key = self._key(token)
        if _to_give_back:
            give_back_to(self.location, key)
        arguments: list[bytes | int] = [token.binding, nonce, self.retention // MILLISECOND, int(comes_again)]
        return ANSWERS[TAKE.run(self.location, [key], arguments)]

    def give_back(self, token: PresentedToken, nonce: bytes) -> None:
        key, retention = self._key(token), self.retention // MILLISECOND
        if len(_to_give_back) < MOST_DUE:
            _to_give_back[Return(self.location, key, nonce, retention)] = None
        try:
            give_back_to(self.location, key)
        except StoreUnavailable:
            logger.warning("given back later: token %s", token.key)
            give_back_soon()

    def _key(self, token: PresentedToken) -> str:
        return f"{prefix(self.location)}:token:{{{token.place}}}:{token.digest.hex()}"
