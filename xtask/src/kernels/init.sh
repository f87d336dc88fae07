#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The first process of a guest. Its output is the serial port NETPOL_PORT, where the host reads
# lines that begin with "netpol: ". Where NETPOL_FILTER has names, separated by commas, only tests
# whose name contains one of them run.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
exec > "/dev/$NETPOL_PORT" 2>&1

while read -r module; do
    insmod "/modules/$module.ko" || echo "module $module does not load"
done < /modules/order

# To load the programs takes seconds here.
export NETPOL_BIN=/netpol NETPOL_REQUIRE_ALL=1 NETPOL_CASES=600 NETPOL_TEST_DEADLINE=120

# A suite, how programs are attached ("" where the suite chooses), and names of tests.
run() {
    suite=$1 mode=$2
    shift 2
    # shellcheck disable=SC2086 # Names of tests are words.
    "/suites/$suite" --list $filter | grep -q ': test$' || return
    echo "netpol: suite $suite${mode:+ $mode}"
    # shellcheck disable=SC2046,SC2086 # Names of tests are words.
    NETPOL_ATTACH=${mode:-auto} "/suites/$suite" --test-threads 2 --show-output ${filter:-"$@"}
    echo "netpol: exit $?"
}

filter=
run kernels "" "" | tee /tmp/kernels
filter=$(echo "$NETPOL_FILTER" | tr , ' ')
if grep -q '^netpol: exit 0' /tmp/kernels; then
    modes=clsact
    ! grep -q '^kernel: attached by: tcx' /tmp/kernels || modes="tcx clsact"
    run progrun "" kernel_says_what_the_evaluator_says
    for mode in $modes; do
        run namespaces "$mode" c1_replies_of_an_allowed_connection a7_denial_is_silence b3_enforcement_outlives_the_agent
    done
else
    mkdir -p /tmp/empty
    NETPOL_LOG=error /netpol agent --source /tmp/empty --node-name node 2>&1 | sed 's/^/netpol: refused /'
fi
echo "netpol: done"
# What the port has not sent yet would be lost.
sleep 1
poweroff -f
