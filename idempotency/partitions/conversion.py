"""Making a plain record table one with partitions: what is there becomes the first of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from idempotency.partitions.rotation import create
from idempotency.partitions.table import COLUMN, DEFAULT, LEGACY, Partition, Table, name_of, period_default
from idempotency.records.base import TABLE

SEQUENCE = f"{TABLE}_id_seq"
ONCE = ("key_digest", "scope")
# What would be lost, or cannot be had on a table with partitions.
IN_THE_WAY = """
    SELECT 'foreign key ' || conname || ' of ' || conrelid::regclass FROM pg_constraint
        WHERE contype = 'f' AND %(table)s::regclass IN (confrelid, conrelid)
    UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger
        WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal
    UNION ALL SELECT 'view or rule ' || ev_class::regclass FROM pg_rewrite
        JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        WHERE refclassid = 'pg_class'::regclass AND refobjid = %(table)s::regclass
    UNION ALL SELECT 'row security' FROM pg_class WHERE oid = %(table)s::regclass AND relrowsecurity
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication_rel
        JOIN pg_publication ON pg_publication.oid = prpubid WHERE prrelid = %(table)s::regclass
"""
GRANTS = """
    SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
    FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = %s::regclass AND grantee <> relowner
"""
INDEXES = """
    SELECT relname, pg_get_indexdef(indexrelid), indisunique,
        ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indexrelid ORDER BY attnum)
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = %s::regclass
"""


class CannotConvert(Exception):
    """And why. Nothing was changed."""


def convert(cursor: Any, period: timedelta, ahead: int) -> None:
    """With the table locked. Its rows stay where they are; two unique indexes are built over them."""
    table = Table(cursor)
    if (kind := table.kind) != "r":
        raise CannotConvert(
            "it has partitions already" if kind == "p" else "there is none: run migrate first"
        )
    cursor.execute(IN_THE_WAY, {"table": TABLE})
    if found := sorted({what for (what,) in cursor.fetchall()}):
        raise CannotConvert(f"a table with partitions would lose: {', '.join(found)}")
    indexes = _take_indexes(cursor)
    last = _take_sequence(cursor)
    cursor.execute(f"ALTER TABLE {TABLE} RENAME TO {LEGACY}")
    cursor.execute(f"ALTER TABLE {LEGACY} ADD COLUMN {COLUMN} bigint NOT NULL DEFAULT 0")
    cursor.execute(
        f"CREATE TABLE {TABLE} (LIKE {LEGACY} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE) "
        f"PARTITION BY LIST ({COLUMN})"
    )
    cursor.execute(f"ALTER TABLE {TABLE} ALTER COLUMN {COLUMN} SET DEFAULT {period_default(period)}")
    _give_sequence(cursor, last)
    _give_owner(cursor)
    _give_indexes(cursor, indexes)
    cursor.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION {LEGACY} FOR VALUES IN (0)")
    now, seconds = table.period_now(period), int(period.total_seconds())
    for start in range(now, now + (ahead + 1) * seconds, seconds):
        create(cursor, Partition(name_of(start), start))
    cursor.execute(f"CREATE TABLE {DEFAULT} PARTITION OF {TABLE} DEFAULT")


def _take_indexes(cursor: Any) -> list[tuple[str, str]]:
    """Their names and definitions, the names being free again. Of the unique ones, what they promise cannot
    be kept over all partitions."""
    cursor.execute(INDEXES, [TABLE])
    found = cursor.fetchall()
    kept = []
    for name, definition, is_unique, columns in found:
        if not is_unique:
            cursor.execute(f'ALTER INDEX "{name}" RENAME TO "{name}_legacy"')
            kept.append((name, definition))
        elif tuple(columns) in (("id",), ONCE):
            cursor.execute(f'ALTER TABLE {TABLE} DROP CONSTRAINT "{name}"')
        else:
            raise CannotConvert(f"unique index {name} cannot be had over all partitions")
    return kept


def _take_sequence(cursor: Any) -> int:
    """The last id that it has given out; a record's id is never another's."""
    cursor.execute(f"SELECT pg_get_serial_sequence('{TABLE}', 'id')")
    sequence = cursor.fetchone()[0]
    cursor.execute(f"SELECT greatest(last_value, (SELECT max(id) FROM {TABLE})) FROM {sequence}")
    last = int(cursor.fetchone()[0])
    cursor.execute(
        "SELECT attidentity::text FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'id'", [TABLE]
    )
    if cursor.fetchone()[0]:
        cursor.execute(f"ALTER TABLE {TABLE} ALTER COLUMN id DROP IDENTITY")
    else:
        cursor.execute(f"ALTER TABLE {TABLE} ALTER COLUMN id DROP DEFAULT")
        cursor.execute(f"DROP SEQUENCE {sequence}")
    return last


def _give_sequence(cursor: Any, last: int) -> None:
    cursor.execute(f"CREATE SEQUENCE {SEQUENCE} START {last + 1} OWNED BY {TABLE}.id")
    cursor.execute(f"ALTER TABLE {TABLE} ALTER COLUMN id SET DEFAULT nextval('{SEQUENCE}')")


def _give_owner(cursor: Any) -> None:
    """And what others were granted. An identity asks for no right to its sequence, a default does."""
    cursor.execute(
        "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = %s::regclass", [LEGACY]
    )
    cursor.execute(f"ALTER TABLE {TABLE} OWNER TO {cursor.fetchone()[0]}")
    cursor.execute(GRANTS, [LEGACY])
    for privilege, grantee in cursor.fetchall():
        cursor.execute(f"GRANT {privilege} ON {TABLE} TO {grantee}")
        if privilege == "INSERT":
            cursor.execute(f"GRANT USAGE ON SEQUENCE {SEQUENCE} TO {grantee}")


def _give_indexes(cursor: Any, indexes: list[tuple[str, str]]) -> None:
    cursor.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT {TABLE}_pkey PRIMARY KEY (id, {COLUMN})")
    cursor.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT {TABLE}_once UNIQUE ({', '.join(ONCE)}, {COLUMN})")
    for _, definition in indexes:
        # Of the table that had the name.
        cursor.execute(definition)
