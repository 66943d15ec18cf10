"""Decisions about who the device is: provisioning, renewal, and what the platform's answers mean."""
