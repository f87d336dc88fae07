#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# usage: debian-kernel.sh SUITE FOLDER [ARCHITECTURE]
#
# Leaves the cloud kernel of a Debian release in FOLDER: vmlinuz, modules/, busybox, and the
# kernel's release in a file of that name. For another architecture than this machine's, tools/ as
# well: what the suites start, and its libraries. The mirror is the machine's own. apt's lists and
# cache are in FOLDER meanwhile: the machine's stay as they are.
set -eu
suite=$1
own=$(dpkg --print-architecture)
arch=${3:-$own}
mkdir -p "$2"
cd "$2"
folder=$PWD

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || { echo "$keyring is missing: install debian-archive-keyring" >&2; exit 1; }
# shellcheck disable=SC2016 # $(REPO_URI) is apt's, not the shell's.
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m 1 '/debian/*$') ||
    { echo "apt has no source of Debian (an address that ends in /debian)" >&2; exit 1; }

rm -rf scratch
mkdir -p scratch/lists/partial scratch/cache/archives/partial scratch/root
trap 'rm -rf "$folder/scratch"' EXIT
cd scratch
: > status
echo "deb [signed-by=$keyring arch=$arch] $mirror $suite main" > sources.list
cat > apt.conf <<END
Dir::Etc::sourcelist "$PWD/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$PWD/lists";
Dir::State::status "$PWD/status";
Dir::Cache "$PWD/cache";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
END
export APT_CONFIG=$PWD/apt.conf
apt-get -qq update

# The metapackage names the kernel; newer kernels are in two packages, which the named one depends on.
dependencies() { apt-cache depends "$1" | sed -n 's/^ *Depends: \(linux-\(image\|binary\|modules\)-[0-9].*-cloud-'"$arch"'\)$/\1/p'; }
image=$(dependencies "linux-image-cloud-$arch")
release=${image#linux-image-}
[ -n "$release" ] || { echo "Debian $suite has no cloud kernel for $arch" >&2; exit 1; }
tools=
[ "$arch" = "$own" ] ||
    tools=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
        iproute2 nftables | grep -E '^(iproute2|nftables|zlib1g|lib[a-z0-9.+-]+)$' | sort -u)
# shellcheck disable=SC2046,SC2086 # Names of packages are words.
apt-get -qq download "$image" $(dependencies "$image") busybox-static $tools
for package in *.deb; do dpkg-deb --extract "$package" root; done

rm -rf ../modules ../busybox ../vmlinuz ../tools
mv "$(find root -path "*/modules/$release" -type d)" ../modules
mv "$(find root -path "*bin/busybox" -type f)" ../busybox
find root ../modules -name 'vmlinuz*' -type f -exec mv {} ../vmlinuz \;
[ -s ../vmlinuz ] || { echo "$image holds no vmlinuz" >&2; exit 1; }
if [ -n "$tools" ]; then
    mkdir -p ../tools/bin ../tools/lib
    for tool in ip tc bridge nft; do cp "$(find root -path "*bin/$tool" -type f | head -n 1)" ../tools/bin/; done
    # The dynamic linker looks there for what it does not find elsewhere. Links are followed.
    find root -path '*/lib/*' -name '*.so*' ! -path '*/*-linux-gnu/*/*' -exec cp -L {} ../tools/lib/ \;
fi
# Last, so that a release that is there is whole.
echo "$release" > ../release
