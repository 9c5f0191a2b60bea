from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from idempotency import redis_dues
from idempotency.mediums import MILLISECOND
from idempotency.redis import Argument, Script, prefix
from idempotency.unique_ids.base import MAX_SLICES, Answer, BaseUniqueIdStore, Said

# Ids of one bucket within WINDOW, where there are as many as expected. Each takes 18 bytes in the list of
# its slice of time; all of the bucket's are read through for every id that is asked for.
BUCKET = 1920
# The current slice, those of the window before, and one that is expired when its turn comes. As many
# whatever SLICE is, as are the buckets: so what was handled is found when SLICE or WINDOW have changed.
SLOTS = MAX_SLICES + 2
# For how long an addition can be repeated, or undone.
REPEATABLE = timedelta(minutes=1)

# KEYS[1] is the claim on one id: the nonce (16 bytes) and the deadline in milliseconds, 0 for an id that the
# nonce has added outright. KEYS[2] says that this nonce is over: it has given the id up, or its removal is
# done. The others are the bucket in each slice of time, in turn; they expire as wholes.
# Any script may run twice: redis-py repeats a command whose reply was lost.
COMMON = """
local id, nonce, slice, lasting = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local FIRST = 3
local slots = #KEYS - FIRST + 1
local claim = redis.call('GET', KEYS[1])
local is_mine = claim and string.sub(claim, 1, 16) == nonce
local deadline = claim and tonumber(string.sub(claim, 17))

local function is_handled()
    for number = FIRST, #KEYS do
        if redis.call('LPOS', KEYS[number], id) then
            return true
        end
    end
    return false
end

local function mark_handled()
    local current = math.floor(now / slice)
    local key = KEYS[FIRST + current % slots]
    local over = (current + 1) * slice + ARGV[7] - now
    redis.call('RPUSH', key, id)
    if redis.call('PTTL', key) < over then
        redis.call('PEXPIRE', key, over)
    end
end

local function unmark()
    for number = FIRST, #KEYS do
        redis.call('LREM', KEYS[number], 0, id)
    end
    redis.call('DEL', KEYS[1])
end

local function hold()
    redis.call('SET', KEYS[1], nonce .. string.format('%d', now + ARGV[5]), 'PX', lasting)
end
"""

TAKE = Script(
    COMMON
    + """
local WON, HANDLED = -1, -2
if is_mine then
    return WON
end
-- An attempt that is late: its caller was told that nothing was done.
if redis.call('EXISTS', KEYS[2]) == 1 or is_handled() then
    return HANDLED
end
if claim and deadline > now then
    return deadline - now
end
if claim and ARGV[6] == 'discard' then
    return HANDLED
end
if ARGV[5] == '0' then
    mark_handled()
    redis.call('SET', KEYS[1], nonce .. '0', 'PX', lasting)
else
    hold()
end
return WON
"""
)

CONTAINS = Script(
    COMMON
    + """
if is_handled() then
    return 1
end
return (claim and deadline <= now and ARGV[6] == 'discard') and 1 or 0
"""
)

CONFIRM = Script(
    COMMON
    + """
if is_mine or (not claim and not is_handled()) then
    hold()
    return 1
end
return 0
"""
)

FINISH = Script(
    COMMON
    + """
if claim and not is_mine then
    return 0
end
if not is_handled() then
    mark_handled()
end
redis.call('DEL', KEYS[1])
return 1
"""
)

GIVE_UP = Script(
    COMMON
    + """
if is_mine then
    unmark()
end
redis.call('SET', KEYS[2], '1', 'PX', lasting)
return 1
"""
)

# Its repetition must not undo what came after it.
REMOVE = Script(
    COMMON
    + """
if claim and deadline > now then
    return deadline - now
end
if redis.call('SET', KEYS[2], '1', 'NX', 'PX', lasting) then
    unmark()
end
return -1
"""
)


class RedisUniqueIdStore(BaseUniqueIdStore):
    """Ids in the Redis of a django-redis cache. LOCATION is its alias in CACHES, by default "default".

    About 20 bytes each, where those of one WINDOW are between a quarter of EXPECTED_IDS and three times as
    many; fewer take more room, and more take longer. Whoever changes EXPECTED_IDS or the name of the
    alias begins anew, with nothing remembered.

    An id is remembered only as long as Redis remembers: give it ``maxmemory-policy noeviction`` and an
    alias that nobody clears. A failover may forget the last second's.
    """

    location: str

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.location = self.location or "default"
        self.slice_length = -(-self.slice // MILLISECOND)
        self.window_length = -(-self.window // MILLISECOND)
        self.buckets = max(1, self.expected_ids // BUCKET)

    def add(self, digests: Sequence[bytes], nonce: bytes) -> list[Said]:
        lasting = min(REPEATABLE, self.window)
        calls = [(self._keys(digest, nonce), self._arguments(digest, nonce, lasting)) for digest in digests]
        for keys, _ in calls:
            # What is still to be given up would be told that it was handled, and its message be lost.
            redis_dues.settle(self.location, keys[0])
        if len(calls) == 1:
            return [said(TAKE.run(self.location, *calls[0]))]
        return [said(answer) for answer in TAKE.run_many(self.location, calls)]

    def contains(self, digest: bytes) -> bool:
        return bool(CONTAINS.run(self.location, self._keys(digest), self._arguments(digest)))

    def remove(self, digest: bytes, nonce: bytes) -> Said:
        arguments = self._arguments(digest, nonce, REPEATABLE)
        return said(REMOVE.run(self.location, self._keys(digest, nonce), arguments))

    def claim(self, digest: bytes, nonce: bytes) -> Said:
        keys = self._keys(digest, nonce)
        # What is still to be given up, or finished, would be told that somebody is handling it.
        redis_dues.settle(self.location, keys[0])
        return said(TAKE.run(self.location, keys, self._claim_arguments(digest, nonce)))

    def confirm(self, digest: bytes, nonce: bytes) -> bool:
        arguments = self._claim_arguments(digest, nonce)
        return bool(CONFIRM.run(self.location, self._keys(digest, nonce), arguments))

    def finish(self, digest: bytes, nonce: bytes) -> None:
        due = self._due(FINISH, digest, nonce)
        redis_dues.owe([due], f"count as handled id {digest.hex()}")

    def give_up(self, digests: Sequence[bytes], nonce: bytes) -> None:
        dues = [self._due(GIVE_UP, digest, nonce) for digest in digests]
        redis_dues.owe(dues, f"give up {len(dues)} ids, {digests[0].hex()} first")

    def _due(self, script: Script, digest: bytes, nonce: bytes) -> redis_dues.Due:
        arguments = self._arguments(digest, nonce, REPEATABLE)
        return redis_dues.Due(self.location, script, tuple(self._keys(digest, nonce)), tuple(arguments))

    def _keys(self, digest: bytes, nonce: bytes = b"") -> list[str]:
        """With one hash tag per bucket, so that a cluster spreads them, and runs each script on one node."""
        bucket = int.from_bytes(digest[:8], "big") % self.buckets
        stem = f"{prefix(self.location)}:ids:{{{self.alias}:{bucket}}}"
        buckets = [f"{stem}:{slot}" for slot in range(SLOTS)]
        return [f"{stem}:{digest.hex()}", f"{stem}:over:{nonce.hex()}", *buckets]

    def _claim_arguments(self, digest: bytes, nonce: bytes) -> list[Argument]:
        lasting = self.claim_for if self.on_unknown == "run" else self.claim_for + self.window
        return self._arguments(digest, nonce, lasting, self.claim_for)

    def _arguments(
        self,
        digest: bytes,
        nonce: bytes = b"",
        lasting: timedelta = timedelta(0),
        claim_for: timedelta = timedelta(0),
    ) -> list[Argument]:
        times = (self.slice_length, lasting // MILLISECOND, claim_for // MILLISECOND)
        return [digest, nonce, *times, self.on_unknown, self.window_length]


def said(answer: int) -> Said:
    if answer < 0:
        return Said(Answer.WON if answer == -1 else Answer.HANDLED)
    return Said(Answer.CLAIMED, answer * MILLISECOND)
