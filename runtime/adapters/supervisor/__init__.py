"""supervisord from outside (RPC) and from inside (plugin)."""
