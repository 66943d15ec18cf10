require edge-runtime.inc

# Built from the checkout that the layer lies in. What is pure Python comes from the wheels of `make packages`,
# compared with the hashes of the lock; what is native comes from recipes of this distribution.
DEPENDS += "python3-hatchling-native python3-pip-native"

inherit python3native

EDGE_SITE = "${EDGE_PREFIX}/lib/python${PYTHON_BASEVERSION}/site-packages"
# Of the lock's names, those that are native.
EDGE_NATIVE = "brotli charset-normalizer pyzmq"
# Those whose wheel `make packages` made out of a source: the lock has the hash of that.
EDGE_MADE = "paho-mqtt"
# Those that only pip asks for.
EDGE_UNUSED = "tzdata"
# The folder of wheels for the target, of any architecture: only pure ones are taken.
EDGE_RUNTIME_WHEELS ?= "${EDGE_RUNTIME_DIST}/wheels/amd64-12"

do_compile() {
    cd ${EDGE_RUNTIME_SOURCE}
    ${PYTHON} -m hatchling build -t wheel -d ${B}/wheel
    for name in ${EDGE_NATIVE} ${EDGE_MADE} ${EDGE_UNUSED}; do
        skipped="$skipped -e /^$name==/,/[^\\\\]\$/d"
    done
    sed $skipped deploy/packaging/requirements.txt > ${B}/requirements.txt
}

do_install() {
    install -d ${D}${EDGE_SITE} ${D}${EDGE_PREFIX}/bin
    pip="${PYTHON} -m pip install --no-index --no-deps --no-compile --target ${D}${EDGE_SITE}"
    $pip --only-binary=:all: --find-links ${EDGE_RUNTIME_WHEELS} -r ${B}/requirements.txt
    $pip ${B}/wheel/*.whl
    for name in ${EDGE_MADE}; do
        $pip ${EDGE_RUNTIME_WHEELS}/$(echo $name | tr - _)-*.whl
    done
    rm -rf ${D}${EDGE_SITE}/bin
    {
        echo "home = ${bindir}"
        echo "include-system-site-packages = true"
        echo "version = ${PYTHON_BASEVERSION}"
    } > ${D}${EDGE_PREFIX}/pyvenv.cfg
    ln -s ${bindir}/python3 ${D}${EDGE_PREFIX}/bin/python
    for script in edgectl:runtime.__main__ supervisord:supervisor.supervisord \
            supervisorctl:supervisor.supervisorctl; do
        {
            echo "#!${EDGE_PREFIX}/bin/python"
            echo "import sys"
            echo "from ${script#*:} import main"
            echo "sys.exit(main())"
        } > ${D}${EDGE_PREFIX}/bin/${script%%:*}
        chmod 0755 ${D}${EDGE_PREFIX}/bin/${script%%:*}
    done
    install_edge_service
}

RDEPENDS:${PN} = "ca-certificates python3-charset-normalizer python3-core python3-modules python3-pyzmq"
