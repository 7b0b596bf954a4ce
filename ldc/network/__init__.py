"""The way to a host: proxies, certificates and addresses. One answer for websockets and for REST."""
