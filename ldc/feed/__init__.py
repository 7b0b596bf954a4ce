"""Websocket connections, subscriptions, handovers, and the thread that owns them."""
