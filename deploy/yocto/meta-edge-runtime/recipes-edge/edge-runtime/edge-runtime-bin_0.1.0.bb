require edge-runtime.inc

# The package that `make deb ARCH=... DEBIAN=...` made: of Debian 12 where python3 is 3.11, of Debian 13 where
# it is 3.13. Its file is unpacked, and none of its scripts runs.
EDGE_RUNTIME_DEB ?= "${EDGE_RUNTIME_DIST}/edge-runtime.deb"

SRC_URI += "file://${EDGE_RUNTIME_DEB};subdir=tree"

inherit bin_package

# Its libraries are stripped already.
INHIBIT_PACKAGE_STRIP = "1"

COMPATIBLE_HOST = "(x86_64|aarch64).*-linux"
COMPATIBLE_HOST:libc-musl = "null"

do_install() {
    install -d ${D}${prefix}/lib
    cp -R --no-dereference --preserve=mode,links ${WORKDIR}/tree${EDGE_PREFIX} ${D}${prefix}/lib/
    if [ ! -e ${D}${EDGE_PREFIX}/lib/python${PYTHON_BASEVERSION} ]; then
        bbfatal "${EDGE_RUNTIME_DEB} is for another Python than ${PYTHON_BASEVERSION}"
    fi
    install_edge_service
}

RDEPENDS:${PN} = "ca-certificates libgcc libstdc++ python3-core python3-modules"
RCONFLICTS:${PN} = "edge-runtime"
