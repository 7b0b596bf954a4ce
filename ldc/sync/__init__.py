"""When a local copy is the exchange's book: the state machine of one market, without I/O."""
