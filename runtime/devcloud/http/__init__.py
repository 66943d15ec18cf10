"""The stand-in's HTTPS side: platform, operators, hub, blobs, page."""
