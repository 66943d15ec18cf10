"""This process and its files: clock, logs, crash reports, status, configuration."""
