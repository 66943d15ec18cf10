"""ZeroMQ: the producers' socket, hints and reports between workers."""
