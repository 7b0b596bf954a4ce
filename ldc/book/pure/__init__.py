"""The order book and the frame reader in plain Python: the definition that the compiled ones are held to."""
