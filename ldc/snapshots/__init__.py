"""Downloads snapshots for the whole process, within the exchange's limits."""
