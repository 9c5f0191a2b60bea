"""Tables of records as large as wanted, filled without the guard, and how large they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, repeat
from typing import Any

from django.db import connection

from benchmarks.views import COLUMNS, TABLE
from idempotency.models import IdempotencyRecord

CHUNK = 250_000
# As the guarded view's own: so many bytes in each column.
KEY, OPERATION, BODY = "0" * 28, "POST guarded/", b"x" * 130
HEADERS = '{"Content-Type":"application/json","Location":"/orders/10000/","Vary":"Accept"}'
RETENTION = "1 day"
EXPIRED_AGO = 2 * 86_400
LEAST = "least_possible"


def fill(count: int, *, expired: bool = False) -> None:
    """So many more completed records, with random digests, that expire one after another: within the next
    day, or, expired, within one that is over."""
    with indexes_built_afterwards() if is_slow(count) else nullcontext():
        fill_in_chunks(count, expired)


def is_slow(count: int) -> bool:
    """InnoDB reads a page for each row of an index that is larger than its buffer pool."""
    return connection.vendor == "mysql" and count >= 1_000_000


@contextmanager
def indexes_built_afterwards() -> Iterator[None]:
    meta = IdempotencyRecord._meta
    with connection.schema_editor() as editor:
        for constraint in meta.constraints:
            editor.remove_constraint(IdempotencyRecord, constraint)
        for index in meta.indexes:
            editor.remove_index(IdempotencyRecord, index)
    yield
    with connection.schema_editor() as editor:
        for constraint in meta.constraints:
            editor.add_constraint(IdempotencyRecord, constraint)
        for index in meta.indexes:
            editor.add_index(IdempotencyRecord, index)


def fill_in_chunks(count: int, expired: bool) -> None:
    done = 0
    while done < count:
        chunk = min(CHUNK, count - done)
        low, high = done / count, (done + chunk) / count
        start = low * 86_400 - (EXPIRED_AGO if expired else 0) + (60 if not expired else 0)
        step = (high - low) * 86_400 / chunk
        (copy if connection.vendor == "postgresql" else select_from_a_sequence)(chunk, start, step)
        done += chunk


def copy(count: int, start: float, step: float) -> None:
    """COPY, with the indexes in place: B-trees grow as they do in use."""
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    moments = ((now + timedelta(seconds=start + step * number)) for number in range(count))
    statement = f"COPY {TABLE} ({', '.join(COLUMNS)}) FROM STDIN"
    lines = chain.from_iterable(zip(rows(count, moments), repeat("\n")))
    with connection.cursor() as cursor:
        raw = cursor.cursor
        if hasattr(raw, "copy_expert"):
            raw.copy_expert(statement, Lines(lines))
        else:
            with raw.copy(statement) as opened:
                for line in lines:
                    opened.write(line)


def rows(count: int, moments: Iterator[Any]) -> Iterator[str]:
    from datetime import timedelta

    day, body = timedelta(days=1), BODY.hex()
    for number, expires in enumerate(moments):
        digits = os.urandom(41).hex()
        yield (
            f"\\\\x{digits[:32]}\t\\\\x{digits[32:64]}\t\\\\x{digits[32:64]}\t{KEY}{number:08d}\t{OPERATION}\t"
            f"\\\\x01{digits[50:82]}\t2\t201\t{HEADERS}\t\\\\x{body}\t1\t{expires - day}\t{expires}"
        )


class Lines:
    """What psycopg2 reads from."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.left = lines, ""

    def read(self, size: int) -> str:
        parts, length = [self.left], len(self.left)
        while length < size and (line := next(self.lines, None)) is not None:
            parts.append(line)
            length += len(line)
        text = "".join(parts)
        self.left = text[size:]
        return text[:size]


def select_from_a_sequence(count: int, start: float, step: float) -> None:
    """MariaDB makes the rows itself; LOAD DATA would send it what it can make in less time."""
    expires = f"UTC_TIMESTAMP(6) + INTERVAL ({start:.6f} + {step:.9f} * seq) * 1000000 MICROSECOND"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) SELECT RANDOM_BYTES(16), RANDOM_BYTES(16), "
            "RANDOM_BYTES(16), CONCAT(%s, LPAD(seq, 8, '0')), %s, CONCAT(CHAR(1), RANDOM_BYTES(16)), 2, 201, "
            f"%s, %s, 1, {expires} - INTERVAL {RETENTION}, {expires} FROM seq_1_to_{count}",
            (KEY, OPERATION, HEADERS, BODY),
        )


def settle_large() -> None:
    """Statistics and visibility as after a vacuum, and nothing left to be written."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"{'VACUUM ANALYZE' if connection.vendor == 'postgresql' else 'ANALYZE TABLE'} {TABLE}"
        )


def bytes_per_record() -> list[dict[str, Any]]:
    """Row, each index, and all together, and the same of a table that could hardly be smaller."""
    fill_least()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {TABLE}")
        count = cursor.fetchone()[0]
        found = []
        for table, title in ((TABLE, "record"), (LEAST, "least possible")):
            parts = sizes(cursor, table)
            found += [{"name": f"{title}: {name}", "bytes": size / count} for name, size in parts]
            found.append({"name": f"{title}: all", "bytes": sum(size for _, size in parts) / count})
        cursor.execute(f"DROP TABLE {LEAST}")
    return found


def sizes(cursor: Any, table: str) -> list[tuple[str, int]]:
    if connection.vendor == "postgresql":
        cursor.execute(
            "SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index "
            "WHERE indrelid = %s::regclass ORDER BY 1",
            [table],
        )
        indexes = cursor.fetchall()
        cursor.execute("SELECT pg_table_size(%s::regclass)", [table])
        return [("rows", cursor.fetchone()[0]), *indexes]
    cursor.execute(f"ANALYZE TABLE {table}")
    cursor.fetchall()
    cursor.execute(
        "SELECT index_name, stat_value * @@innodb_page_size FROM mysql.innodb_index_stats "
        "WHERE database_name = DATABASE() AND table_name = %s AND stat_name = 'size'",
        [table],
    )
    found = [("rows" if name == "PRIMARY" else name, int(size)) for name, size in cursor.fetchall()]
    return sorted(found, key=lambda part: (part[0] != "rows", part))


def fill_least() -> None:
    """Key, fingerprint and body; on PostgreSQL an index of ranges on the expiry too."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                f"CREATE TABLE {LEAST} (digest bytea, fingerprint bytea, body bytea, expires_at timestamptz, "
                "PRIMARY KEY (digest))"
            )
            cursor.execute(f"CREATE INDEX {LEAST}_expiry ON {LEAST} USING brin (expires_at)")
        else:
            cursor.execute(
                f"CREATE TABLE {LEAST} (digest BINARY(16) PRIMARY KEY, fingerprint VARBINARY(17), "
                "body LONGBLOB, expires_at DATETIME(6))"
            )
        cursor.execute(f"INSERT INTO {LEAST} SELECT key_digest, fingerprint, body, expires_at FROM {TABLE}")
