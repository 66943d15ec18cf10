"""What a device image takes: Debian packages, a container, their parts lists and one offline bundle.

Built on one amd64 machine for all three architectures, without running anything foreign: wheels are fetched
by their hashes and unpacked, never installed by their own code.

    python -m deploy.packaging deb --arch arm64 --release 13
    python -m deploy.packaging container
    python -m deploy.packaging bundle

Two builds of one commit are the same bytes: times come from the commit (SOURCE_DATE_EPOCH), files are in
order, and no script names the machine that built it.
"""
