#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The guest's first process: three pods behind veths of a bridge, the agent on a folder of manifests, and pings and TCP connections that the
# policy allows or denies. The last line is "arm64: passed" if each went as it should.
/bin/busybox --install -s /bin
# A shell of busybox prefers the `ip` in it, which cannot do this.
ip() { /sbin/ip "$@"; }
export PATH=/sbin:/bin LD_LIBRARY_PATH=/lib
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
end() { echo "arm64: $*"; sleep 1; poweroff -f; }
trap 'end the script ended early' EXIT
uname -srm
for module in bridge veth sch_ingress cls_bpf nf_conntrack nf_conntrack_netlink; do modprobe "$module" || echo "no module $module"; done

ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link add cni0 type bridge
ip address add 10.244.0.1/24 dev cni0
ip link set cni0 up
pod() {
    ip netns add "$1"
    ip link add "veth-$1" type veth peer name eth0 netns "$1"
    ip link set "veth-$1" master cni0 up
    ip -n "$1" address add "$2/24" dev eth0
    ip -n "$1" link set eth0 up
    ip -n "$1" link set lo up
    ip -n "$1" route add default via 10.244.0.1
    ip netns exec "$1" nc -ll -p 8080 -e /bin/cat &
}
mkdir -p /run/netns /run/netpol
pod a 10.244.0.10
pod b 10.244.0.11
pod c 10.244.0.12
sleep 1

failed=0
expect() {
    wanted=$1
    shift
    if "$@" > /run/said 2>&1; then found=passes; else found=dropped; fi
    if [ "$found" = "$wanted" ]; then said=ok; else said=WRONG failed=1 && cat /run/said; fi
    echo "arm64: $said: $found: $*"
}
ping_from() { ip netns exec "$1" ping -c 1 -W 3 "$2"; }
connect_from() { echo hello | ip netns exec "$1" timeout 5 nc -w 3 "$2" 8080 | grep -q hello; }

/netpol --version
echo "arm64: before the agent, all pass"
expect passes ping_from b 10.244.0.10
expect passes ping_from c 10.244.0.10

/netpol agent --source /manifests --node-name node-a --listen 127.0.0.1:9600 --socket /run/netpol/agent.sock > /run/agent.log 2>&1 &
agent=$!
tries=0
until grep -q "revision applied" /run/agent.log; do
    tries=$((tries + 1))
    [ "$tries" -lt 90 ] || { cat /run/agent.log; end "the agent applies no revision"; }
    sleep 1
done
grep -iE "attach|program|revision applied|warn|error" /run/agent.log | head -n 12

echo "arm64: pod a is isolated, and allows b"
expect passes ping_from b 10.244.0.10
expect dropped ping_from c 10.244.0.10
expect passes connect_from b 10.244.0.10
expect dropped connect_from c 10.244.0.10
expect passes ping_from a 10.244.0.12
expect passes ping_from c 10.244.0.11
/netpol status --socket /run/netpol/agent.sock
expect passes /netpol verify --socket /run/netpol/agent.sock
kill -9 "$agent"
echo "arm64: the agent is killed, and the kernel goes on"
expect passes ping_from b 10.244.0.10
expect dropped ping_from c 10.244.0.10
expect passes /netpol cleanup
expect passes ping_from c 10.244.0.10
trap - EXIT
[ "$failed" = 0 ] || end failed
end passed
