"""Speed of certificates. ``python -m benchmarks`` prints one table; nothing here is asserted."""
