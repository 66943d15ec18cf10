"""What looks at everything: only the command line imports it."""
