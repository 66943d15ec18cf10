"""Make the virtual environment of this checkout, or say in one sentence what is missing.

Runs on the bare system Python, however old, so it keeps to syntax that any Python 3 reads.
"""

import os
import subprocess
import sys


def main(venv):
    """Create `venv` with the pinned dependencies. Returns the exit status."""
    if sys.version_info < (3, 11):
        return fail(
            "Python 3.11 or newer is needed, this is %d.%d; run: make PYTHON=/path/to/python3.11"
            % sys.version_info[:2]
        )
    try:
        import ensurepip  # noqa: F401
        import venv as venv_module
    except ImportError:
        return fail("the venv module is missing; on Debian: sudo apt-get install python3-venv")
    sys.stderr.write("setting up %s (once, about a minute: pip downloads what pyproject.toml names)\n" % venv)
    venv_module.create(venv, with_pip=True, clear=True)
    pip = [
        os.path.join(venv, "bin", "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    if subprocess.call([*pip, "-c", "constraints.txt", "-e", ".[compress,encrypt,devcloud,test]"]) != 0:
        return fail(
            "pip could not install the dependencies (see above); check the network or your package index"
        )
    with open(os.path.join(venv, ".ready"), "w"):
        return 0


def fail(sentence):
    """Say it and return the exit status."""
    sys.stderr.write("error: %s\n" % sentence)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ".venv"))
