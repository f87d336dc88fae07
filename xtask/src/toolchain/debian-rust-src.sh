#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# usage: debian-rust-src.sh RELEASE FOLDER
#
# Leaves the library/ of a Rust release in FOLDER, out of Debian's package rust-src. The mirror is the
# machine's own. apt's lists and cache are in FOLDER meanwhile: the machine's stay as they are.
set -eu
release=$1
mkdir -p "$2"
cd "$2"
folder=$PWD

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || { echo "$keyring is missing: install debian-archive-keyring" >&2; exit 1; }
# shellcheck disable=SC2016 # $(REPO_URI) is apt's, not the shell's.
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m 1 '/debian/*$') ||
    { echo "apt has no source of Debian (an address that ends in /debian)" >&2; exit 1; }

mkdir -p apt/lists/partial apt/cache/archives/partial
trap 'rm -r "$folder/apt"' EXIT
# Where Rust releases of the last year are; the packages have no dependencies that matter here.
for suite in trixie-backports sid; do
    echo "deb [signed-by=$keyring] $mirror $suite main"
done > apt/sources.list
apt() {
    apt-get -qq -o Dir::Etc::sourcelist="$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$folder/apt/lists" -o Dir::Cache="$folder/apt/cache" \
        -o APT::Sandbox::User=root -o Acquire::Languages=none "$@"
}
cd apt
apt update
apt download "rust-src=$release*"
dpkg-deb --fsys-tarfile rust-src_*.deb |
    tar -x --no-same-owner --strip-components=4 "./usr/src/rustc-$release/library"
# Last, so that a library/ that is there is whole.
mv library "$folder/library"
