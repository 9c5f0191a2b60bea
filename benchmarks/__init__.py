"""What the guard costs, measured: ``python -m benchmarks`` (or ``make bench``)."""
