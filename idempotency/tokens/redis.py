from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from idempotency import redis_dues
from idempotency.exceptions import TooManyTokens
from idempotency.mediums import MILLISECOND
from idempotency.redis import Script, prefix
from idempotency.tokens.answers import Answer
from idempotency.tokens.base import BaseTokenStore
from idempotency.tokens.texts import PresentedToken

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
        # What is still to be given back would be told that it was used.
        redis_dues.settle(self.location, key)
        arguments: list[bytes | int] = [token.binding, nonce, self.retention // MILLISECOND, int(comes_again)]
        return ANSWERS[TAKE.run(self.location, [key], arguments)]

    def give_back(self, token: PresentedToken, nonce: bytes) -> None:
        arguments = (nonce, self.retention // MILLISECOND)
        due = redis_dues.Due(self.location, GIVE_BACK, (self._key(token),), arguments)
        redis_dues.owe([due], f"give back token {token.key}")

    def _key(self, token: PresentedToken) -> str:
        return f"{prefix(self.location)}:token:{{{token.place}}}:{token.digest.hex()}"
