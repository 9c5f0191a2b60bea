from __future__ import annotations

from typing import Any

from idempotency.clock import now
from idempotency.locks.base import BaseLockStore, Ticket
from idempotency.redis import Script, connection, outages, prefix, socket_timeout

# A lock is the nonce of its holder. Any script may run twice: redis-py repeats a command whose reply was
# lost, and whoever has won must then be told so.
# KEYS[2] is there while somebody waits, KEYS[3] is what wakes one of them, and KEYS[4] is who released it
# last.
ASK = Script("""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
    if ARGV[3] == '1' then
        redis.call('SET', KEYS[2], '1', 'PX', 2000)
    end
    return math.max(redis.call('PTTL', KEYS[1]), 0)
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return -1
""")

RENEW = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
""")

# 0: the lock is nobody's, as a repeated release finds it; -1: somebody else's, unless it is repeated.
RELEASE = Script("""
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[4], ARGV[1], 'PX', 10000)
    if redis.call('EXISTS', KEYS[2]) == 1 and redis.call('LLEN', KEYS[3]) == 0 then
        redis.call('RPUSH', KEYS[3], '1')
        redis.call('PEXPIRE', KEYS[3], 1000)
    end
    return 1
end
if not holder or redis.call('GET', KEYS[4]) == ARGV[1] then
    return 0
end
return -1
""")

# Whoever is woken and does not come is made up for when the next one's time is over.
LONGEST_PAUSE = 0.5


class RedisLockStore(BaseLockStore):
    """Locks in the Redis of a django-redis cache. LOCATION is its alias in CACHES, by default "default".

    One server decides, and a failover to a replica that lags behind may give a lock to a second holder:
    a fence stops what the first one writes then.
    """

    location: str

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.location = self.location or "default"

    def ask(self, ticket: Ticket, ttl: float, *, waits: bool) -> float | None:
        keys, milliseconds = self._keys(ticket), int(ttl * 1000)
        ticket.asked_at = now()
        with outages(self.location):
            # Cheaper than the script, which is asked where this is not answered by OK: somebody else holds
            # it, or this very ticket, whose reply was lost.
            client = connection(self.location)
            if client.execute_command("SET", keys[0], ticket.nonce, "NX", "PX", milliseconds):
                return None
        ticket.asked_at = now()
        left: int = ASK.run(self.location, keys, [ticket.nonce, milliseconds, int(waits)])
        return None if left == -1 else left / 1000

    def pause(self, ticket: Ticket, longest: float) -> None:
        # Redis would wait for ever at 0; and a client must hear of it before its own timeout.
        timeout = socket_timeout(self.location)
        seconds = max(0.001, min(longest, LONGEST_PAUSE, *([timeout / 2] if timeout else [])))
        with outages(self.location):
            connection(self.location).blpop([self._keys(ticket)[2]], timeout=seconds)

    def renew(self, ticket: Ticket, ttl: float) -> bool:
        asked_at = now()
        renewed = RENEW.run(self.location, self._keys(ticket)[:1], [ticket.nonce, int(ttl * 1000)])
        if renewed:
            ticket.asked_at = asked_at
        return bool(renewed)

    def holds(self, ticket: Ticket) -> bool:
        with outages(self.location):
            holder: bytes | None = connection(self.location).get(self._keys(ticket)[0])
        return holder == ticket.nonce

    def release(self, ticket: Ticket) -> bool | None:
        answer: int = RELEASE.run(self.location, self._keys(ticket), [ticket.nonce])
        return {1: True, 0: None}.get(answer, False)

    def _keys(self, ticket: Ticket) -> list[str]:
        if ticket.medium is None:
            stem = f"{prefix(self.location)}:lock:{{{ticket.digest.hex()}}}"
            ticket.medium = [stem, f"{stem}:waiting", f"{stem}:wake", f"{stem}:last"]
        keys: list[str] = ticket.medium
        return keys
