"""ZeroMQ: the producers' socket, hints, reports and the hub line between workers."""
