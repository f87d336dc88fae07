#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# usage: boot.sh NETPOL FOLDER [DEBIAN]
#
# Boots the arm64 cloud kernel of a Debian release (default: bookworm) under qemu-system-aarch64, without hardware
# virtualisation, and runs the arm64 agent NETPOL on it: init.sh says what is tested. What is downloaded is kept in FOLDER. Needs
# root, Debian, and its packages qemu-system-arm, cpio and kmod. Exits with 0 if the guest says that all went well.
set -eu
netpol=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
suite=${3:-bookworm}
mkdir -p "$2/$suite"
cd "$2/$suite"
folder=$PWD

[ -e release ] || sh "$here/packages.sh" "$suite" "$folder"
release=$(cat release)

rm -rf root
mkdir -p root/bin root/sbin root/proc root/sys root/dev root/run root/tmp root/lib/modules root/manifests
cp packages/bin/busybox root/bin/ 2>/dev/null || cp packages/usr/bin/busybox root/bin/
cp "$(find packages -path '*bin/ip' ! -type l | head -n 1)" root/sbin/ip
# The libraries' folder is a link in newer releases.
for library in $(find packages -name '*.so*' -path '*aarch64-linux-gnu/*' ! -path '*/gconv/*'); do
    cp -P "$library" root/lib/
done
cp -r modules "root/lib/modules/$release"
depmod -b root "$release"
cp "$netpol" root/netpol
cp "$here/init.sh" root/init
cp "$here/manifests/"* root/manifests/
(cd root && find . | cpio --create --quiet --format=newc --owner=+0:+0) > initrd

# A panic ends the guest; so does the limit, tenfold what it takes on an idle machine.
timeout 600 qemu-system-aarch64 -machine virt -cpu max,pauth-impdef=on -accel tcg,thread=multi -smp 2 -m 2048 \
    -nodefaults -no-reboot -display none -serial stdio -kernel vmlinuz -initrd initrd \
    -append "console=ttyAMA0 quiet loglevel=4 panic=-1" < /dev/null | tr -d '\r' | tee console.log
grep -q '^arm64: passed' console.log
