"""The stand-in hub: MQTT over TLS and WebSockets, as strict as the real one."""
