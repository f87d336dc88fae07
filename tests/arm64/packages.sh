#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# usage: packages.sh SUITE FOLDER
#
# Leaves the arm64 cloud kernel of a Debian release in FOLDER: vmlinuz, modules/, release, and in packages/ what the guest of boot.sh
# uses. The mirror is the machine's own. apt's lists and cache are in FOLDER meanwhile: the machine's stay as they are.
set -eu
suite=$1
cd "$2"
folder=$PWD
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# shellcheck disable=SC2016 # $(REPO_URI) is apt's, not the shell's.
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m 1 '/debian/*$') ||
    { echo "apt has no source of Debian (an address that ends in /debian)" >&2; exit 1; }

rm -rf scratch packages modules
mkdir -p scratch/lists/partial scratch/cache/archives/partial packages
trap 'rm -rf "$folder/scratch"' EXIT
cd scratch
: > status
echo "deb [signed-by=$keyring arch=arm64] $mirror $suite main" > sources.list
cat > apt.conf <<END
Dir::Etc::sourcelist "$PWD/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$PWD/lists";
Dir::State::status "$PWD/status";
Dir::Cache "$PWD/cache";
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
END
export APT_CONFIG=$PWD/apt.conf
apt-get -qq update
# The metapackage names the kernel; newer kernels are in two packages, which the named one depends on.
dependencies() { apt-cache depends "$1" | sed -n 's/^ *Depends: \(linux-\(image\|binary\|modules\)-[0-9].*-cloud-arm64\)$/\1/p'; }
image=$(dependencies linux-image-cloud-arm64)
[ -n "$image" ] || { echo "Debian $suite has no cloud kernel for arm64" >&2; exit 1; }
# `ip`, and all that it is linked with.
tools=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances iproute2 |
    grep -E '^(iproute2|zlib1g|lib[a-z0-9.+-]+)$' | sort -u)
# shellcheck disable=SC2046,SC2086 # Names of packages are words.
apt-get -qq download "$image" $(dependencies "$image") busybox-static $tools
for package in *.deb; do dpkg-deb --extract "$package" ../packages; done
cd ..
release=${image#linux-image-}
mv "$(find packages -path "*/modules/$release" -type d)" modules
find packages modules -name 'vmlinuz*' -type f -exec mv {} vmlinuz \;
[ -s vmlinuz ] || { echo "$image holds no vmlinuz" >&2; exit 1; }
# Last, so that a release that is there is whole.
echo "$release" > release
