"""Outgoing connections: HTTPS, TLS options, proxies, dialing."""
