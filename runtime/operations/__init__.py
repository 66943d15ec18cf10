"""Overview and diagnosis of the whole runtime: only the command line imports them."""
