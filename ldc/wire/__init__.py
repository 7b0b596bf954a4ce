"""Binance's protocol as a server speaks it: shared by the embedded exchange and the gateway."""
