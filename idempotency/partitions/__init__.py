"""Partitions of the record table on PostgreSQL, by the period in which a record was written: the past is
dropped as a whole instead of being deleted row by row."""
