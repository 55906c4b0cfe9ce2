#!/bin/sh
# Installs (as root) every Debian package that the tests and benches use, and those named as arguments.
set -eu
PACKAGES="gcc libc6-dev make python3 python3-dev python3-venv mosquitto mosquitto-clients iproute2 nftables systemd $*"
[ "$(id -u)" = 0 ] || { echo "system: run as root, or: sudo apt-get install -y $PACKAGES" >&2; exit 1; }
apt-get update -qq
# A broker installed for tests must not start as a service of this machine.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $PACKAGES
